use super::*;
use proptest::prelude::*;
use thimble_spec::service::Ready;

const ZERO: Duration = Duration::ZERO;

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn service(name: &str, after: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        exec: vec![format!("/bin/{name}")],
        kind: ServiceKind::Daemon,
        after: after.iter().map(|name| (*name).to_owned()).collect(),
        uid: 0,
        gid: 0,
        environment: Default::default(),
        restart: Restart::Always,
        ready: None,
        limits: Default::default(),
    }
}

#[test]
fn stops_when_told_and_starts_again_when_told() {
    let mut plan = Plan::new(&[service("x", &[])]).unwrap();
    plan.started(0, ZERO);
    assert!(plan.stop(0, false, ms(5)));
    assert_eq!(plan.actions(ms(6)), []);
    let limit = ms(5) + STOP_LIMIT;
    assert_eq!(plan.deadline(), Some(limit));
    assert_eq!(plan.actions(limit), [Action::Kill(0)]);
    assert_eq!(plan.ended(0, false, limit), Next::Done);
    assert_eq!((plan.state(0), plan.deadline()), (State::Stopped, None));
    assert!(!plan.stop(0, false, limit));
    assert_eq!(plan.actions(limit * 9), []);
    plan.start(0);
    assert_eq!(plan.actions(limit), [Action::Start(0)]);
    plan.started(0, limit);
    assert!(plan.stop(0, true, limit));
    plan.ended(0, true, limit);
    assert_eq!(plan.actions(limit), [Action::Start(0)]);
    // One that failed too often is forgiven.
    for _ in 0..9 {
        plan.started(0, limit);
        plan.ended(0, false, limit);
    }
    plan.start(0);
    assert_eq!(plan.actions(limit), [Action::Start(0)]);
    plan.started(0, limit);
    assert_eq!(plan.ended(0, false, limit), Next::Again(ms(100)));
}

#[test]
fn a_web_server_waits_for_what_it_needs() {
    // Given a set-up that runs once, a database with a port, and a web server after both,
    let setup = Service { kind: ServiceKind::Once, ..service("setup", &[]) };
    let database = Service { ready: Some(Ready::Port(3306)), ..service("db", &["setup"]) };
    let mut plan = Plan::new(&[setup, database, service("web", &["db"])]).unwrap();
    // when time goes on, each starts when the one before is ready.
    assert_eq!(plan.actions(ZERO), [Action::Start(0)]);
    plan.started(0, ZERO);
    assert_eq!(plan.actions(ZERO), []);
    assert_eq!(plan.ended(0, true, ms(5)), Next::Done);
    assert_eq!(plan.actions(ms(5)), [Action::Start(1)]);
    plan.started(1, ms(5));
    assert_eq!(plan.actions(ms(5)), [Action::Test(1)]);
    plan.tested(1, false, ms(6));
    assert_eq!(plan.actions(ms(7)), []);
    assert_eq!(plan.deadline(), Some(ms(16)));
    assert_eq!(plan.actions(ms(16)), [Action::Test(1)]);
    plan.tested(1, true, ms(16));
    assert!(!plan.all_ready());
    assert_eq!(plan.actions(ms(16)), [Action::Start(2)]);
    plan.started(2, ms(17));
    assert!(plan.all_ready());
    assert_eq!(plan.deadline(), None);
}

#[test]
fn restarts_by_policy() {
    for (kind, restart, success, again, ready) in [
        (ServiceKind::Daemon, Restart::Always, true, true, false),
        (ServiceKind::Daemon, Restart::Always, false, true, false),
        (ServiceKind::Daemon, Restart::OnFailure, true, false, true),
        (ServiceKind::Daemon, Restart::OnFailure, false, true, false),
        (ServiceKind::Daemon, Restart::Never, false, false, false),
        (ServiceKind::Once, Restart::Always, true, false, true),
        (ServiceKind::Once, Restart::Always, false, true, false),
        (ServiceKind::Once, Restart::OnFailure, false, true, false),
        (ServiceKind::Once, Restart::Never, false, false, false),
    ] {
        let mut plan = Plan::new(&[Service { kind, restart, ..service("x", &[]) }]).unwrap();
        plan.started(0, ZERO);
        let next = plan.ended(0, success, ms(1));
        assert_eq!(matches!(next, Next::Again(_)), again, "{kind:?} {restart:?} {success}");
        assert_eq!(plan.all_ready(), ready, "{kind:?} {restart:?} {success}");
    }
}

#[test]
fn pauses_grow() {
    let mut plan = Plan::new(&[service("x", &[])]).unwrap();
    let mut now = ZERO;
    for pause in [100, 200, 400] {
        plan.started(0, now);
        assert_eq!(plan.ended(0, false, now), Next::Again(ms(pause)));
        assert_eq!(plan.actions(now), []);
        now = plan.deadline().unwrap();
        assert_eq!(plan.actions(now), [Action::Start(0)]);
    }
}

#[test]
fn who_is_late_is_named_once() {
    let mut plan = Plan::new(&[Service { ready: Some(Ready::Port(80)), ..service("x", &[]) }]).unwrap();
    plan.started(0, ZERO);
    assert_eq!(plan.actions(READY_LIMIT), [Action::Late(0), Action::Test(0)]);
    plan.tested(0, false, READY_LIMIT);
    assert_eq!(plan.actions(READY_LIMIT + ms(10)), []);
    assert_eq!(plan.actions(READY_LIMIT + SLOW_TEST_INTERVAL), [Action::Test(0)]);
}

#[test]
fn who_says_something_is_not_late() {
    let mut plan = Plan::new(&[Service { ready: Some(Ready::Port(80)), ..service("x", &[]) }]).unwrap();
    plan.started(0, ZERO);
    plan.heard(0, READY_LIMIT - ms(1));
    plan.tested(0, false, READY_LIMIT);
    assert_eq!(plan.actions(READY_LIMIT), []);
    assert_eq!(plan.actions(READY_LIMIT + READY_LIMIT - ms(1)), [Action::Late(0), Action::Test(0)]);
}

#[test]
fn broken_lists_are_refused() {
    let error = |services: &[Service]| Plan::new(services).err().unwrap();
    assert!(error(&[service("a", &["b"]), service("b", &[])]).contains("a comes after b"));
    assert!(error(&[service("a", &["a"])]).contains("a comes after a"));
    assert!(error(&[Service { exec: vec![], ..service("a", &[]) }]).contains("no program"));
    assert!(error(&[Service { exec: vec!["sh".to_owned()], ..service("a", &[]) }]).contains("absolute path"));
}

proptest! {
    /// Whatever happens in whatever order, nobody runs before those that it waits for, and nobody starts twice.
    #[test]
    fn order_holds(
        links in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..6),
        events in prop::collection::vec((any::<prop::sample::Index>(), 0u8..6), 0..60),
    ) {
        let services: Vec<Service> = links.iter().enumerate().map(|(place, links)| {
            let after: Vec<String> =
                if place == 0 { vec![] } else { links.iter().map(|link| link.index(place).to_string()).collect() };
            let after: Vec<&str> = after.iter().map(String::as_str).collect();
            let ready = (place % 2 == 0).then_some(Ready::Port(1));
            let kind = if place % 3 == 1 { ServiceKind::Once } else { ServiceKind::Daemon };
            Service { ready, kind, ..service(&place.to_string(), &after) }
        }).collect();
        let mut plan = Plan::new(&services).unwrap();
        let mut now = ZERO;
        let mut running = vec![false; services.len()];
        let mut was_ready = vec![false; services.len()];
        for (index, event) in events {
            for action in plan.actions(now) {
                if let Action::Start(place) = action {
                    prop_assert!(!running[place]);
                    for after in &services[place].after {
                        prop_assert!(was_ready[after.parse::<usize>().unwrap()]);
                    }
                    plan.started(place, now);
                    running[place] = true;
                }
            }
            let place = index.index(services.len());
            match event {
                3 => drop(plan.stop(place, false, now)),
                4 => drop(plan.stop(place, true, now)),
                5 => plan.start(place),
                _ => {}
            }
            if running[place] && event < 3 {
                if event == 0 {
                    plan.ended(place, now.as_millis().is_multiple_of(2), now);
                    running[place] = false;
                } else {
                    plan.tested(place, event == 1, now);
                }
            }
            for (place, unit) in plan.units.iter().enumerate() {
                was_ready[place] |= unit.is_ready();
            }
            now = plan.deadline().unwrap_or(now).max(now + ms(1));
        }
    }
}
