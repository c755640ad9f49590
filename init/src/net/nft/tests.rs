//! Against the kernel, in a network namespace of the test's own.

use super::socket::Counter;
use super::*;
use crate::net::tests::in_namespace;

fn rule(matches: Vec<Match>, counter: &str, then: Then) -> Rule {
    Rule { matches, counter: Some(counter.to_owned()), then }
}

fn tables(guests: usize) -> Vec<Table> {
    let chain = |name: &str, hook, rules| Chain { name: name.to_owned(), hook, rules };
    let hook = |number, priority, drops| Some(Hook { kind: "filter", number, priority, drops });
    let input = vec![
        Rule { matches: vec![Match::connection_in(6)], counter: None, then: Then::Accept },
        Rule { matches: vec![Match::from_interface("lo")], counter: None, then: Then::Accept },
        rule(vec![Match::family(false), Match::protocol(1), Match::transport(0, &[8])], "ping", Then::Accept),
        rule(vec![Match::address_in(12, "10.0.0.0/9".parse().unwrap())], "denied", Then::Drop),
    ];
    let jumps = (0..guests).map(|guest| Rule {
        matches: vec![Match::from_interface(&format!("tap-{guest}"))],
        counter: None,
        then: Then::Jump(format!("guest {guest}")),
    });
    let guests = (0..guests).map(|guest| {
        let mac = [2, 0, 0, 0, 0, 1];
        let rules = (0..10).map(|_| rule(vec![Match::link(6, &mac).not()], &format!("{guest}"), Then::Drop)).collect();
        chain(&format!("guest {guest}"), None, rules)
    });
    let chains = guests.chain([chain("from guests", hook(0, -200, false), jumps.collect())]).collect();
    vec![
        Table { family: Family::Inet, chains: vec![chain("input", hook(1, 0, true), input)] },
        Table { family: Family::Bridge, chains },
    ]
}

/// Whether this kernel has nf_tables; a test that finds it has not says so.
fn open() -> Option<NftSocket> {
    let mut socket = NftSocket::open().ok()?;
    match socket.counters() {
        Ok(_) => Some(socket),
        Err(error) => {
            eprintln!("skipped: {}", error.sentence());
            None
        }
    }
}

#[test]
fn rules_are_replaced_and_counters_go_on() {
    in_namespace(|| {
        let Some(mut socket) = open() else { return };
        for _ in 0..2 {
            if let Err(error) = socket.replace(&tables(200)) {
                panic!("{}", error.sentence());
            }
        }
        let counters = socket.counters().unwrap();
        assert_eq!(counters.len(), 2 + 200);
        // Nobody but `lo` gets in, and what came by it was not counted.
        let key = (Family::Inet, "ping".to_owned());
        assert_eq!(counters[&key], Counter::default());
        let mut network = crate::net::Network::open().unwrap();
        crate::net::loopback(&mut network).unwrap();
        // A rule that is refused leaves everything as it was.
        let mut bad = tables(1);
        bad[1].chains[1].rules[0].then = Then::Jump("nowhere".to_owned());
        assert_eq!(socket.replace(&bad).unwrap_err().errno(), Some(libc::ENOENT));
        assert_eq!(socket.counters().unwrap().len(), 2 + 200);
        socket.replace(&[]).unwrap();
        assert_eq!(socket.counters().unwrap().len(), 0);
    });
}
