//! What the process keeps resident.

use std::{convert::Infallible, fs, io, ops::Range, ptr::NonNull, time::Duration};

use nix::{
    libc::c_void,
    sys::mman::{MmapAdvise, madvise},
};
use tokio::time::sleep;
use tracing::debug;

/// Unmaps the pages of program code and constants, this program's and its libraries'. Returns how many bytes were mapped.
///
/// What is still in use is mapped again when it is needed, from the page cache: a minor fault for 64 KiB. What served only
/// at the start no longer counts as the process's, and the kernel may use its memory for something else.
///
/// Code that somebody has changed in memory, with a debugger's breakpoint for instance, is left alone.
///
/// Spec: `madvise(2)`; Linux `Documentation/filesystems/proc.rst` for `smaps`.
///
/// # Errors
/// If `/proc/self/smaps` cannot be read, or the kernel refuses.
pub fn release_program() -> io::Result<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mut released = 0;
    for mapping in mappings(&smaps).filter(Mapping::is_pristine) {
        let Some(start) = NonNull::new(mapping.range.start as *mut c_void) else {
            continue;
        };
        #[expect(unsafe_code, reason = "the kernel is told which memory to drop")]
        // SAFETY: the range is a whole private mapping of a file which this process cannot write to, and of which it has no
        // page of its own (`Anonymous` is 0): what is dropped is read from the file again, with the same content. It is still
        // that mapping, since nothing here unloads code. Only a debugger could change a page in between, and only its
        // breakpoint would be lost.
        unsafe {
            madvise(start, mapping.range.len(), MmapAdvise::MADV_DONTNEED)?;
        }
        released += mapping.resident;
    }
    Ok(released)
}

/// [Releases the program](release_program) again and again: most code runs at the start, and some for a burst.
pub async fn keep_program_small() -> Infallible {
    sleep(STARTED).await;
    loop {
        if let Err(error) = release_program() {
            debug!(%error, "the program stays mapped");
        }
        sleep(RELEASE_AGAIN).await;
    }
}

/// One mapping, as far as it matters here.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping {
    range: Range<usize>,
    permissions: String,
    is_file: bool,
    /// Bytes in memory, and those of them that differ from the file.
    resident: u64,
    anonymous: u64,
}

impl Mapping {
    /// Whether the file holds all that is in memory: code or constants, as they were loaded.
    fn is_pristine(&self) -> bool {
        let is_fixed = matches!(self.permissions.as_str(), "r-xp" | "r--p");
        self.is_file && is_fixed && self.anonymous == 0
    }

    /// Reads the line that a mapping begins with: range, permissions, offset, device, inode, path.
    fn begin(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        Some(Self {
            range: hex(start)?..hex(end)?,
            permissions: words.next()?.to_owned(),
            is_file: words.nth(2)? != "0",
            ..Self::default()
        })
    }
}

fn mappings(smaps: &str) -> impl Iterator<Item = Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::begin(line) {
            all.push(mapping);
        } else if let Some(last) = all.last_mut() {
            let bytes = |name| {
                let rest = line.strip_prefix(name)?.strip_suffix("kB")?;
                Some(rest.trim().parse::<u64>().ok()?.saturating_mul(1024))
            };
            last.resident = bytes("Rss:").unwrap_or(last.resident);
            last.anonymous = bytes("Anonymous:").unwrap_or(last.anonymous);
        }
    }
    all.into_iter()
}

/// Keeps the heap in one arena, whatever the number of threads: for a program whose work is not allocating.
///
/// The C library otherwise gives each thread that finds the heap busy an arena of its own, up to eight for each processor, and
/// what a thread has freed there is of use to no other. A C library without arenas is left as it is.
///
/// Call it before there are threads. Spec: `mallopt(3)`, `M_ARENA_MAX`.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's allocator is configured")]
    // SAFETY: takes two numbers and touches nothing of ours.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Gives free pages of the heap back to the kernel.
///
/// Spec: `malloc_trim(3)`; it does nothing with another C library.
pub fn release_heap() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "the C library's allocator gives up free pages")]
    // SAFETY: the allocator takes its own locks, and only pages without an allocation are dropped.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// After this, a process that can start has.
const STARTED: Duration = Duration::from_secs(2);
/// Short enough for memory to follow use, long enough to cost nothing: finding a hundred pages again takes 0.1 ms.
const RELEASE_AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_files_still_hold_counts() {
        let smaps = "\
55c280d53000-55c280e00000 r--p 00000000 fe:00 4711                       /usr/bin/ztunnel
Rss:                1368 kB
Anonymous:             0 kB
55c280e00000-55c280e02000 r-xp 000ad000 fe:00 4711                       /usr/bin/ztunnel
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me sd
55c280e02000-55c280e04000 r-xp 000af000 fe:00 4711                       /usr/lib/a library with a breakpoint.so
Rss:                   8 kB
Anonymous:             4 kB
55c280e04000-55c280e06000 rw-p 000b1000 fe:00 4711                       /usr/bin/ztunnel
Rss:                   8 kB
Anonymous:             0 kB
55c280e06000-55c280e08000 r--p 000b3000 fe:00 4711                       /usr/bin/ztunnel
Rss:                   4 kB
Anonymous:             4 kB
7fff97eab000-7fff97ead000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
Anonymous:             0 kB
";
        let pristine: Vec<_> = mappings(smaps).filter(Mapping::is_pristine).collect();
        let code = Mapping {
            range: 0x55c2_80e0_0000..0x55c2_80e0_2000,
            permissions: "r-xp".to_owned(),
            is_file: true,
            resident: 8192,
            anonymous: 0,
        };
        let constants = Mapping {
            range: 0x55c2_80d5_3000..0x55c2_80e0_0000,
            permissions: "r--p".to_owned(),
            is_file: true,
            resident: 1368 << 10,
            anonymous: 0,
        };
        assert_eq!(pristine, [constants, code]);
    }

    #[test]
    fn released_code_runs_on() {
        let released = release_program().unwrap();
        assert!(released > 0);
        // This very function was unmapped, and so was the library that prints.
        assert_eq!(
            format!("{:?}", release_program().map(|_| "runs")),
            "Ok(\"runs\")"
        );
    }
}
