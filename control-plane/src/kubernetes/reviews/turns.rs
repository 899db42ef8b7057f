//! One at a time of those that have something in common.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Turns, by what their takers have in common. What is kept of one goes with the last of its takers.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Queue>>);

#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    /// With the one whose turn it is.
    takers: usize,
}

impl Turns {
    /// A place among those of `key`; `None` if as many wait as may.
    pub(super) fn place(&self, key: String) -> Option<Place<'_>> {
        let mut queues = self.0.lock();
        let queue = queues.entry(key.clone()).or_insert_with(|| Queue {
            turn: Arc::new(Semaphore::new(1)),
            takers: 0,
        });
        if queue.takers > WAITING {
            return None;
        }
        queue.takers += 1;
        Some(Place {
            turn: Arc::clone(&queue.turn),
            turns: self,
            key,
        })
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Has one permit, for the one whose turn it is.
    pub(super) turn: Arc<Semaphore>,
    turns: &'a Turns,
    key: String,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut queues = self.turns.0.lock();
        if let Entry::Occupied(mut queue) = queues.entry(std::mem::take(&mut self.key)) {
            queue.get_mut().takers -= 1;
            if queue.get().takers == 0 {
                queue.remove();
            }
        }
    }
}

/// How many may wait for one turn. A pod has one token at a time.
const WAITING: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> String {
        text.to_owned()
    }

    #[test]
    fn a_few_wait_and_the_others_are_turned_away() {
        let turns = Turns::default();
        let mut places: Vec<_> = (0..=WAITING)
            .filter_map(|_| turns.place(key("a")))
            .collect();
        assert_eq!(places.len(), 1 + WAITING);
        assert!(turns.place(key("a")).is_none());
        assert!(turns.place(key("b")).is_some(), "others are none of theirs");
        places.pop();
        assert!(turns.place(key("a")).is_some());
    }

    #[tokio::test]
    async fn one_at_a_time_has_its_turn() {
        let turns = Turns::default();
        let first = turns.place(key("a")).unwrap();
        let second = turns.place(key("a")).unwrap();
        let held = first.turn.acquire().await.unwrap();
        assert!(second.turn.try_acquire().is_err());
        drop(held);
        assert!(second.turn.try_acquire().is_ok());
    }

    #[test]
    fn nothing_is_kept_of_those_that_are_gone() {
        let turns = Turns::default();
        let (first, second) = (turns.place(key("a")), turns.place(key("a")));
        drop(first);
        assert_eq!(turns.0.lock().len(), 1);
        drop(second);
        assert_eq!(turns.0.lock().len(), 0);
    }
}
