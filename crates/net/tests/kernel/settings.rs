//! Settings of the kernel where a container runtime has mounted them read-only.

use std::fs;

use nix::mount::{MsFlags, mount};
use tulle_net::settings::make_writable;

use crate::support::isolated;

#[test]
fn settings_that_are_mounted_read_only_become_writable() {
    isolated(|| {
        let path = Some("/proc/sys");
        let none = None::<&str>;
        mount(path, "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
        let flags = MsFlags::MS_BIND
            | MsFlags::MS_REMOUNT
            | MsFlags::MS_RDONLY
            | MsFlags::MS_NOSUID
            | MsFlags::MS_NODEV
            | MsFlags::MS_NOEXEC;
        mount(none, "/proc/sys", none, flags, none).unwrap();
        let setting = "/proc/sys/net/ipv4/tcp_fwmark_accept";
        fs::write(setting, "1").unwrap_err();
        make_writable().unwrap();
        fs::write(setting, "1").unwrap();
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1");
        make_writable().unwrap();
    });
}
