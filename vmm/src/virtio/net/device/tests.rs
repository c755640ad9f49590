use super::*;
use crate::virtio::testing::wires;

fn description() -> spec::Net {
    spec::Net::new("none", "02:00:00:00:00:01".parse().unwrap())
}

fn refusal(description: &spec::Net) -> String {
    match Net::open(description, 0) {
        Ok(_) => String::new(),
        Err(error) => error.sentence(),
    }
}

#[test]
fn a_description_that_makes_no_sense_is_refused_in_a_sentence() {
    for (description, words) in [
        (spec::Net { queue_pairs: Some(0), ..description() }, "0 queue pairs: give it 1 to 16"),
        (spec::Net { queue_pairs: Some(17), ..description() }, "17 queue pairs"),
        (spec::Net { mtu: Some(67), ..description() }, "MTU of 67: give it 68 to 65535"),
        (spec::Net::new("none", thimble_spec::names::Mac([3, 0, 0, 0, 0, 1])), "03:00:00:00:00:01"),
        (spec::Net::new("no/such", description().mac), "no/such"),
        (spec::Net::new("gone0", description().mac), "cannot find the tap interface gone0"),
    ] {
        let sentence = refusal(&description);
        assert!(sentence.contains(words), "{sentence}");
    }
}

#[test]
fn what_is_offered_follows_the_description() {
    let features = |pairs, mtu| {
        let (ours, _theirs) = wires(pairs);
        Net::on(ours, &spec::Net { mtu, ..description() }).unwrap().features() & (config::F_MQ | config::F_MTU)
    };
    assert_eq!(features(1, None), 0);
    assert_eq!(features(2, None), config::F_MQ);
    assert_eq!(features(1, Some(1400)), config::F_MTU);
}

#[test]
fn each_queue_is_in_one_lane() {
    for pairs in 1..=4 {
        let (ours, _theirs) = wires(pairs);
        let mut net = Net::on(ours, &description()).unwrap();
        let mut queues: Vec<_> = net.take_lanes().iter().flat_map(|lane| lane.queues()).collect();
        queues.sort_unstable();
        assert_eq!(queues, (0..net.queue_sizes().len()).collect::<Vec<_>>());
    }
}

#[test]
fn vhost_and_limits_exclude_each_other() {
    let limits = Limits { bandwidth: Some(spec::Rate { per_second: 1, burst: None }), operations: None };
    let limited = spec::Net { receive: limits, ..description() };
    let backend = |backend, net: &spec::Net| open_vhost(&spec::Net { backend, ..net.clone() }, 1);
    assert!(backend(NetBackend::Auto, &limited).unwrap().is_none());
    assert!(backend(NetBackend::User, &description()).unwrap().is_none());
    let both = spec::Net { backend: NetBackend::Vhost, ..limited };
    let sentence = Net::check(&both).unwrap_err().sentence();
    assert!(sentence.contains("cannot have limits and the backend vhost"), "{sentence}");
    // Auto takes what is there; Vhost says what is missing.
    let there = backend(NetBackend::Auto, &description()).unwrap().is_some();
    match backend(NetBackend::Vhost, &description()) {
        Ok(devices) => assert!(there && devices.is_some()),
        Err(error) => assert!(!there && error.sentence().contains("/dev/vhost-net"), "{}", error.sentence()),
    }
}
