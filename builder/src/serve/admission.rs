//! How many are served at once: so many in all, and so many from one address, so that nobody alone keeps the others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Transfers or connections at once.
const ALL: usize = 1024;
/// From one address. A machine needs one or two; several may stand behind one address.
const FROM_ONE: usize = 256;

/// Counts them.
#[derive(Clone, Debug, Default)]
pub struct Admission(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    each: HashMap<IpAddr, usize>,
}

/// Somebody's place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    counts: Arc<Mutex<Counts>>,
    peer: IpAddr,
}

impl Admission {
    /// A place for `peer`, if there is one.
    pub fn admit(&self, peer: IpAddr) -> Option<Place> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all == ALL || counts.each.get(&peer).is_some_and(|&count| count == FROM_ONE) {
            return None;
        }
        counts.all += 1;
        *counts.each.entry(peer).or_default() += 1;
        Some(Place { counts: Arc::clone(&self.0), peer })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(count) = counts.each.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                counts.each.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_address_does_not_keep_the_others_out() {
        let admission = Admission::default();
        let from = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let mut places: Vec<_> = (0..FROM_ONE).map(|_| admission.admit(from(1)).unwrap()).collect();
        assert!(admission.admit(from(1)).is_none());
        for last in 2..5 {
            places.extend((0..FROM_ONE).map(|_| admission.admit(from(last)).unwrap()));
        }
        assert!(admission.admit(from(9)).is_none(), "{ALL} is all");
        places.clear();
        assert!(admission.admit(from(1)).is_some());
        assert!(admission.0.lock().unwrap().each.is_empty(), "nobody is remembered who has gone");
    }
}
