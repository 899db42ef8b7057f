//! What the process keeps resident.

use std::fs;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

use nix::libc::c_void;
use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the pages of program code, this program's and its libraries'. Returns how many bytes were mapped.
///
/// What still runs is mapped again at its next use, from the page cache: a minor fault for 64 KiB. What ran only at the
/// start no longer counts as the process's, and the kernel may use its memory for something else.
///
/// Code that somebody has changed in memory, with a debugger's breakpoint for instance, is left alone.
///
/// Spec: `madvise(2)`; Linux `Documentation/filesystems/proc.rst` for `smaps`.
///
/// # Errors
/// If `/proc/self/smaps` cannot be read, or the kernel refuses.
pub fn release_code() -> io::Result<u64> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mut released = 0;
    for code in mappings(&smaps).filter(Mapping::is_pristine_code) {
        let Some(start) = NonNull::new(code.range.start as *mut c_void) else {
            continue;
        };
        #[expect(unsafe_code, reason = "the kernel is told which memory to drop")]
        // SAFETY: the range is a whole private mapping of a file which this process cannot write to, and of which it has no
        // page of its own (`Anonymous` is 0): what is dropped is read from the file again, with the same content. It is still
        // that mapping, since nothing here unloads code. Only a debugger could change a page in between, and only its
        // breakpoint would be lost.
        unsafe {
            madvise(start, code.range.len(), MmapAdvise::MADV_DONTNEED)?;
        }
        released += code.resident;
    }
    Ok(released)
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
    fn is_pristine_code(&self) -> bool {
        self.is_file && self.permissions == "r-xp" && self.anonymous == 0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unchanged_code_of_files_counts() {
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
7fff97eab000-7fff97ead000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
Anonymous:             0 kB
";
        let code: Vec<_> = mappings(smaps).filter(Mapping::is_pristine_code).collect();
        let expected = Mapping {
            range: 0x55c2_80e0_0000..0x55c2_80e0_2000,
            permissions: "r-xp".to_owned(),
            is_file: true,
            resident: 8192,
            anonymous: 0,
        };
        assert_eq!(code, [expected]);
    }

    #[test]
    fn released_code_runs_on() {
        let released = release_code().unwrap();
        assert!(released > 0);
        // This very function was unmapped, and so was the library that prints.
        assert_eq!(
            format!("{:?}", release_code().map(|_| "runs")),
            "Ok(\"runs\")"
        );
    }
}
