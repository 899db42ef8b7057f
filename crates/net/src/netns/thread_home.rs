//! Which namespace the calling thread is in, and the way back from a visit to another.

use std::cell::RefCell;
use std::io;
use std::process;

use nix::sched::{CloneFlags, setns};

use super::Netns;

thread_local! {
    /// Where this thread is. Opened once per thread, at its first visit.
    static HERE: RefCell<Option<Netns>> = const { RefCell::new(None) };
}

/// Runs `f` in `target` and comes back.
pub(super) fn within<T>(target: &Netns, f: impl FnOnce() -> T) -> io::Result<T> {
    let origin = here()?;
    if origin == *target {
        return Ok(f());
    }
    move_to(target)?;
    let _way_back = WayBack { origin };
    Ok(f())
}

/// Brings the thread back when a visit ends, also when it ends by a panic.
struct WayBack {
    origin: Netns,
}

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = move_to(&self.origin) {
            tracing::error!(%error, "cannot leave a network namespace; aborting");
            process::abort();
        }
    }
}

fn here() -> io::Result<Netns> {
    HERE.with_borrow_mut(|here| match here {
        Some(here) => Ok(here.clone()),
        None => Ok(here.insert(Netns::current()?).clone()),
    })
}

fn move_to(target: &Netns) -> io::Result<()> {
    setns(target, CloneFlags::CLONE_NEWNET)?;
    HERE.set(Some(target.clone()));
    Ok(())
}
