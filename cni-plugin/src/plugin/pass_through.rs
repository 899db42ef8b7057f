//! After the mesh was uninstalled: sandboxes that still name the plugin must be able to end, and nobody is left to ask.
//!
//! Uninstalling leaves a mark beside the executable as long as there are such sandboxes. With it every verb succeeds.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Output;
use crate::cni::{CniError, Code, Version};

/// The mark of an executable.
pub fn marker(executable: &Path) -> PathBuf {
    let mut name = executable.as_os_str().to_owned();
    name.push(".pass-through");
    name.into()
}

/// Whether an executable is marked, by somebody who could as well have replaced it: root, or its own owner.
pub fn is_marked(executable: &Path) -> bool {
    let Ok(mark) = fs::symlink_metadata(marker(executable)) else {
        return false;
    };
    let owned =
        || mark.uid() == 0 || fs::metadata(executable).is_ok_and(|of| of.uid() == mark.uid());
    mark.is_file() && mark.mode() & WRITABLE_BY_OTHERS == 0 && owned()
}

/// Succeeds. ADD prints the previous result as it came; VERSION is answered as ever.
pub fn run(variable: impl Fn(&str) -> Option<OsString>, input: &[u8]) -> Output {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    match command.to_str() {
        Some("VERSION") => super::run(variable, input),
        Some("ADD") => match previous(input) {
            Some(previous) => Output {
                stdout: format!("{previous}\n"),
                success: true,
            },
            None => {
                let error = CniError::new(Code::InvalidConfig, "no prevResult to pass on");
                Output {
                    stdout: error.to_json(Version::NEWEST),
                    success: false,
                }
            }
        },
        _ => Output {
            stdout: String::new(),
            success: true,
        },
    }
}

/// The rest may be from any version: it does not matter any more.
fn previous(input: &[u8]) -> Option<&str> {
    #[derive(Deserialize)]
    struct Input<'a> {
        #[serde(borrow, rename = "prevResult")]
        previous: Option<&'a RawValue>,
    }
    let input: Input<'_> = serde_json::from_slice(input).ok()?;
    input.previous.map(RawValue::get)
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
