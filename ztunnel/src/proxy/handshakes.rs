//! Bounds how many strangers may be half way through a handshake.

use std::{cell::RefCell, collections::HashMap, net::IpAddr, rc::Rc};

/// Places for unfinished handshakes of one pod. One address gets at most a quarter of them, so that a single peer that
/// stalls does not keep the others out.
#[derive(Clone)]
pub struct Handshakes(Rc<Places>);

struct Places {
    limit: usize,
    taken: RefCell<HashMap<IpAddr, usize>>,
}

/// A place; free again when dropped.
pub struct Place {
    places: Rc<Places>,
    peer: IpAddr,
}

impl Handshakes {
    /// `limit` places.
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(Places {
            limit: limit.max(1),
            taken: RefCell::new(HashMap::new()),
        }))
    }

    /// Takes a place for `peer`, if there is one.
    pub fn take(&self, peer: IpAddr) -> Option<Place> {
        let mut taken = self.0.taken.borrow_mut();
        let total: usize = taken.values().sum();
        let own = taken.get(&peer).copied().unwrap_or(0);
        if total >= self.0.limit || own >= (self.0.limit / 4).max(1) {
            return None;
        }
        taken.insert(peer, own + 1);
        Some(Place {
            places: self.0.clone(),
            peer,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.borrow_mut();
        if let Some(count) = taken.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_cannot_take_all_places() {
        let handshakes = Handshakes::new(8);
        let (stalled, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let held: Vec<_> = (0..8).filter_map(|_| handshakes.take(stalled)).collect();
        assert_eq!(held.len(), 2);
        assert!(handshakes.take(other).is_some());
        drop(held);
        assert!(handshakes.take(stalled).is_some());
    }

    #[test]
    fn all_peers_together_are_bounded() {
        let handshakes = Handshakes::new(8);
        let places: Vec<_> = (0..20u8)
            .filter_map(|n| handshakes.take([10, 0, 0, n].into()))
            .collect();
        assert_eq!(places.len(), 8);
    }
}
