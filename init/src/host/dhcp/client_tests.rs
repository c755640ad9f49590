use super::*;
use proptest::prelude::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 1);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 50);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn answer(kind: AnswerKind, xid: u32) -> Answer {
    Answer {
        kind,
        xid,
        address: ADDRESS,
        server: SERVER,
        prefix: Some(24),
        gateway: Some(SERVER),
        dns: vec![SERVER],
        times: (Some(1000), None, None),
    }
}

/// A client that has a lease of 1000 s since second 0.
fn leased() -> State {
    let (state, actions) = step(State::new(7, Duration::ZERO), &Input::Tick, Duration::ZERO);
    assert!(matches!(&actions[..], [Action::Broadcast(Question { kind: QuestionKind::Discover, .. })]));
    let offer = Input::Answer(answer(AnswerKind::Offer, state.xid));
    let (state, actions) = step(state, &offer, Duration::ZERO);
    let [Action::Broadcast(request)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((request.kind, request.wanted, request.server), (QuestionKind::Request, Some(ADDRESS), Some(SERVER)));
    assert_eq!(request.current, None, "section 4.3.2: ciaddr is zero");
    let ack = Input::Answer(answer(AnswerKind::Ack, state.xid));
    let (state, actions) = step(state, &ack, Duration::ZERO);
    let [Action::Configure(lease)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(lease.address.to_string(), "10.1.1.50/24");
    assert_eq!(lease.ends, Some((seconds(500), seconds(875), seconds(1000))));
    state
}

#[test]
fn gets_a_lease_and_renews_it_at_half_time() {
    let state = leased();
    assert_eq!(state.deadline(), Some(seconds(500)));
    assert_eq!(step(state.clone(), &Input::Tick, seconds(499)).1, []);
    // When T1 comes, its server alone is asked, with the address in ciaddr and nothing else said.
    let (state, actions) = step(state, &Input::Tick, seconds(500));
    let [Action::Unicast(SERVER, request)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((request.current, request.wanted, request.server), (Some(ADDRESS), None, None));
    // The same lease again changes nothing but its end.
    let ack = Input::Answer(answer(AnswerKind::Ack, state.xid));
    let (state, actions) = step(state, &ack, seconds(501));
    assert_eq!(actions, []);
    assert_eq!(state.deadline(), Some(seconds(1001)));
}

#[test]
fn a_link_that_is_back_is_asked_about_at_once() {
    let mut state = leased();
    state.hurry(seconds(3));
    let (state, actions) = step(state, &Input::Tick, seconds(3));
    assert!(matches!(&actions[..], [Action::Unicast(SERVER, _)]), "{actions:?}");
    // Another network's server says no, and the search begins anew.
    let nak = Input::Answer(answer(AnswerKind::Nak, state.xid));
    let (state, actions) = step(state, &nak, seconds(4));
    assert!(matches!(&actions[..], [Action::Deconfigure(_), ..]), "{actions:?}");
    // One that was stopped stays so.
    let (mut stopped, _) = step(state, &Input::Stop, seconds(5));
    stopped.hurry(seconds(6));
    assert_eq!(stopped.deadline(), None);
}

#[test]
fn without_an_answer_it_asks_everybody_and_then_gives_the_address_up() {
    let mut state = leased();
    let mut seen = Vec::new();
    while state.lease().is_some() {
        let now = state.deadline().unwrap();
        let (next, actions) = step(state, &Input::Tick, now);
        seen.extend(actions.into_iter().map(|action| (now.as_secs(), action)));
        state = next;
    }
    let first_broadcast = seen.iter().find(|(_, action)| matches!(action, Action::Broadcast(_))).unwrap();
    assert_eq!(first_broadcast.0, 875);
    let gone = seen.iter().find(|(_, action)| matches!(action, Action::Deconfigure(_))).unwrap();
    assert_eq!(gone.0, 1000);
    assert!(matches!(state.phase, Phase::Selecting), "and it looks for another");
}

#[test]
fn a_refusal_takes_the_address_away() {
    let (state, _) = step(leased(), &Input::Tick, seconds(500));
    let nak = Input::Answer(answer(AnswerKind::Nak, state.xid));
    let (state, actions) = step(state, &nak, seconds(501));
    assert!(matches!(&actions[..], [Action::Deconfigure(_), Action::Broadcast(_)]));
    assert_eq!(state.phase, Phase::Selecting);
}

#[test]
fn another_address_replaces_the_old_one() {
    let (state, _) = step(leased(), &Input::Tick, seconds(500));
    let ack = Answer { address: Ipv4Addr::new(10, 1, 1, 51), ..answer(AnswerKind::Ack, state.xid) };
    let (_, actions) = step(state, &Input::Answer(ack), seconds(501));
    assert!(matches!(&actions[..], [Action::Deconfigure(_), Action::Configure(_)]));
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (state, _) = step(State::new(7, Duration::ZERO), &Input::Tick, Duration::ZERO);
    let offer = Input::Answer(answer(AnswerKind::Offer, state.xid));
    let (mut state, _) = step(state, &offer, Duration::ZERO);
    let mut requests = 1;
    while matches!(state.phase, Phase::Requesting(_)) {
        let now = state.deadline().unwrap();
        (state, _) = step(state, &Input::Tick, now);
        requests += 1;
    }
    assert_eq!((state.phase, requests), (Phase::Selecting, REQUESTS + 1));
}

#[test]
fn the_end_gives_the_lease_back() {
    let (state, actions) = step(leased(), &Input::Stop, seconds(3));
    let [Action::Unicast(SERVER, release)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((release.kind, release.current, release.server), (QuestionKind::Release, Some(ADDRESS), Some(SERVER)));
    assert_eq!(state.deadline(), None);
    assert_eq!(step(State::new(1, Duration::ZERO), &Input::Stop, Duration::ZERO).1, []);
}

#[test]
fn nonsense_is_put_right() {
    let lease = |answer: Answer| granted(&answer, Duration::ZERO);
    let ack = answer(AnswerKind::Ack, 0);
    assert_eq!(lease(Answer { times: (Some(u32::MAX), None, None), ..ack.clone() }).ends, None);
    let (t1, t2, end) = lease(Answer { times: (Some(0), Some(90), Some(80)), ..ack.clone() }).ends.unwrap();
    assert!(t1 <= t2 && t2 <= end && end == seconds(30));
    assert_eq!(lease(Answer { prefix: None, ..ack.clone() }).address.prefix, 8);
    assert_eq!(lease(Answer { gateway: Some(Ipv4Addr::UNSPECIFIED), ..ack }).gateway, None);
}

#[test]
fn strangers_are_not_heard() {
    let (state, _) = step(State::new(7, Duration::ZERO), &Input::Tick, Duration::ZERO);
    for wrong in [
        answer(AnswerKind::Offer, state.xid.wrapping_add(1)),
        answer(AnswerKind::Ack, state.xid),
        Answer { address: Ipv4Addr::UNSPECIFIED, ..answer(AnswerKind::Offer, state.xid) },
    ] {
        assert_eq!(step(state.clone(), &Input::Answer(wrong), Duration::ZERO), (state.clone(), vec![]));
    }
}

fn any_answer() -> impl Strategy<Value = Answer> {
    let kind = prop_oneof![Just(AnswerKind::Offer), Just(AnswerKind::Ack), Just(AnswerKind::Nak)];
    let times = (any::<Option<u32>>(), any::<Option<u32>>(), any::<Option<u32>>());
    (kind, any::<bool>(), any::<u32>(), 0u8..=32, times).prop_map(|(kind, ours, address, prefix, times)| Answer {
        kind,
        xid: u32::from(ours),
        address: Ipv4Addr::from_bits(address),
        server: SERVER,
        prefix: Some(prefix),
        gateway: None,
        dns: vec![],
        times,
    })
}

proptest! {
    /// Whatever servers say: addresses are taken away before others come, and the client never stops trying.
    #[test]
    fn configured_addresses_are_balanced(
        steps in prop::collection::vec((prop::option::of(any_answer()), 0u64..4000), 0..60),
    ) {
        let mut now = Duration::ZERO;
        let mut state = State::new(3, now);
        let mut in_use: Option<Lease> = None;
        for (input, later) in steps {
            let input = match input {
                Some(mut answer) => { if answer.xid == 1 { answer.xid = state.xid; } Input::Answer(answer) }
                None => Input::Tick,
            };
            let (next, actions) = step(state, &input, now);
            state = next;
            prop_assert!(actions.len() <= 2);
            for action in actions {
                match action {
                    Action::Configure(lease) => { prop_assert!(in_use.is_none()); in_use = Some(lease); }
                    Action::Deconfigure(lease) => {
                        prop_assert_eq!(in_use.take().map(|lease| lease.address), Some(lease.address));
                    }
                    _ => {}
                }
            }
            prop_assert_eq!(in_use.as_ref().map(|l| l.address), state.lease().map(|l| l.address));
            let endless = state.lease().is_some_and(|lease| lease.ends.is_none());
            prop_assert!(state.deadline().is_some() || endless);
            now += Duration::from_secs(later);
        }
    }
}
