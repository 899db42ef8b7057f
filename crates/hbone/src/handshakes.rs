//! Bounds how many strangers may be half way through a handshake, and counts those that are through.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::IpAddr,
    rc::Rc,
};

/// Places for unfinished handshakes of one pod. One address gets at most a quarter of them, so that a single peer that
/// stalls does not keep the others out.
#[derive(Clone)]
pub struct Handshakes(Rc<Places>);

struct Places {
    limit: usize,
    taken: RefCell<HashMap<IpAddr, usize>>,
    established: Cell<usize>,
}

/// Counts one connection that finished its handshake, for as long as it lives: it costs a descriptor even while nobody
/// opens a tunnel on it.
pub struct Established(Rc<Places>);

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
            established: Cell::new(0),
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

impl Handshakes {
    /// Connections that finished their handshake and live.
    pub fn established(&self) -> usize {
        self.0.established.get()
    }
}

impl Place {
    /// The handshake is done.
    pub fn establish(self) -> Established {
        let places = self.places.clone();
        places.established.set(places.established.get() + 1);
        Established(places)
    }
}

impl Drop for Established {
    fn drop(&mut self) {
        self.0.established.set(self.0.established.get() - 1);
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
    fn a_finished_handshake_frees_its_place_and_counts_until_it_ends() {
        let handshakes = Handshakes::new(4);
        let peer = "10.0.0.1".parse().unwrap();
        let established = handshakes.take(peer).unwrap().establish();
        assert!(handshakes.take(peer).is_some());
        assert_eq!(handshakes.established(), 1);
        drop(established);
        assert_eq!(handshakes.established(), 0);
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
