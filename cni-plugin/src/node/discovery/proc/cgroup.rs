//! The pod and container in the names of a process's cgroups.
//!
//! ```text
//! /kubepods/burstable/pod<UID>/<container>                                    driver cgroupfs
//! /kubepods.slice/…/kubepods-burstable-pod<UID_>.slice/cri-containerd-<container>.scope    driver systemd
//! /system.slice/containerd.service/kubepods-pod<UID_>.slice:cri-containerd:<container>     a mix of both
//! /../crio-<container>.scope                                                  seen from a cgroup namespace: no UID
//! ```
//!
//! Each line of the file is `<hierarchy>:<controllers>:<path>`: one in version 2, one per hierarchy in version 1. Slices of
//! systemd have `_` for the `-` of the UID, since `-` parts the levels of slices.

/// Where a process belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// The pod's UID, with `-`.
    pub(super) uid: String,
    /// The container, which need not be the pod's sandbox.
    pub(super) container: String,
}

/// The lines do not agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its cgroups are of more than one container")]
pub(super) struct Mixed;

/// Where a process with these cgroups belongs; `None` if not to a container of a pod.
pub(super) fn member(cgroups: &str) -> Result<Option<Member>, Mixed> {
    let (mut uid, mut container) = (None, None);
    for line in cgroups.lines() {
        let Some(path) = line.splitn(3, ':').nth(2) else {
            continue;
        };
        let place = place(path);
        agree(&mut uid, place.uid)?;
        agree(&mut container, place.container.map(str::to_owned))?;
    }
    Ok(uid
        .zip(container)
        .map(|(uid, container)| Member { uid, container }))
}

/// Whether this is how runtimes of Kubernetes name sandboxes and containers.
pub(super) fn is_container_id(id: &str) -> bool {
    id.len() == 64 && is_hex(id)
}

fn agree(known: &mut Option<String>, said: Option<String>) -> Result<(), Mixed> {
    match (&*known, said) {
        (_, None) => Ok(()),
        (Some(known), Some(said)) if *known != said => Err(Mixed),
        (_, said) => {
            *known = said;
            Ok(())
        }
    }
}

#[derive(Default)]
struct Place<'a> {
    uid: Option<String>,
    container: Option<&'a str>,
}

/// The innermost pod of the path and the outermost container in it: a node may be a container itself, and a container may
/// have others inside.
fn place(path: &str) -> Place<'_> {
    let mut place = Place::default();
    for part in path.split(['/', ':']) {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let name = name.strip_suffix(".slice").unwrap_or(name);
        if let Some(uid) = uid(name) {
            place = Place {
                uid: Some(uid),
                container: None,
            };
        } else if place.container.is_none() {
            place.container = container(name);
        }
    }
    place
}

/// The UID in `pod<UID>`, whatever stands before it.
fn uid(name: &str) -> Option<String> {
    let (before, uid) = name.rsplit_once("pod")?;
    let parted = before.is_empty() || before.ends_with(|c: char| c.is_ascii_punctuation());
    let uid = uid.replace('_', "-");
    (parted && is_pod_uid(&uid)).then_some(uid)
}

/// A UUID; of pods from files of the kubelet, a hash.
fn is_pod_uid(uid: &str) -> bool {
    let groups: Vec<&str> = uid.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    matches!(lengths.as_slice(), [8, 4, 4, 4, 12] | [32]) && groups.into_iter().all(is_hex)
}

/// The ID in `<ID>` or `<runtime>-<ID>`. What watches a container of CRI-O is not in it.
fn container(name: &str) -> Option<&str> {
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    (is_container_id(id) && !runtime.ends_with("conmon")).then_some(id)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7c1e3f0a-1b2c-4d3e-8f90-a1b2c3d4e5f6";
    const SLICE: &str = "7c1e3f0a_1b2c_4d3e_8f90_a1b2c3d4e5f6";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn every_form_of_the_runtimes_is_read() {
        let (id, other) = ("5".repeat(64), "6".repeat(64));
        let deep = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod";
        for (path, uid) in [
            (format!("/kubepods/burstable/pod{UID}/{id}"), Some(UID)),
            (format!("/kubepods/pod{UID}/{id}"), Some(UID)),
            (format!("/kubepods/pod{STATIC}/{id}"), Some(STATIC)),
            (
                format!("{deep}{SLICE}.slice/cri-containerd-{id}.scope"),
                Some(UID),
            ),
            (format!("{deep}{SLICE}.slice/crio-{id}.scope"), Some(UID)),
            (
                format!("{deep}{SLICE}.slice/crio-{id}.scope/container"),
                Some(UID),
            ),
            (
                format!("{deep}{SLICE}.slice/docker-{id}.scope/init.scope"),
                Some(UID),
            ),
            (format!("{deep}{SLICE}.slice/{id}"), Some(UID)),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods-pod{SLICE}.slice/cri-containerd-{id}.scope"
                ),
                Some(UID),
            ),
            (
                format!(
                    "/system.slice/containerd.service/kubepods-pod{SLICE}.slice:cri-containerd:{id}"
                ),
                Some(UID),
            ),
            (format!("/../../pod{UID}/{id}"), Some(UID)),
            (format!("/kubepods/pod{UID}/{id}/docker/{other}"), Some(UID)),
            (
                format!("/docker/{other}/kubelet/kubepods/pod{UID}/{id}"),
                Some(UID),
            ),
            (
                format!("/kubepods/pod{STATIC}/{other}/kubepods/pod{UID}/{id}"),
                Some(UID),
            ),
            (format!("/../crio-{id}.scope"), None),
            (format!("{deep}{SLICE}.slice/crio-conmon-{id}.scope"), None),
            (format!("{deep}{SLICE}.slice"), None),
            (format!("/kubepods/pod{UID}/short"), None),
            (format!("/kubepods/tripod{UID}/{id}"), None),
            (format!("/kubepods/pod{UID}0/{id}"), None),
            (format!("/kubepods/podman/{id}"), None),
            (format!("/docker/{id}"), None),
            ("/user.slice/user-0.slice/session-1.scope".to_owned(), None),
            ("/".to_owned(), None),
            (String::new(), None),
        ] {
            let expected = uid.map(|uid| Member {
                uid: uid.to_owned(),
                container: id.clone(),
            });
            for line in [format!("0::{path}\n"), format!("4:cpu,cpuacct:{path}\n")] {
                assert_eq!(member(&line), Ok(expected.clone()), "{line}");
            }
        }
    }

    #[test]
    fn lines_complete_each_other_and_must_not_disagree() {
        let (id, other) = ("5".repeat(64), "6".repeat(64));
        let expected = Member {
            uid: UID.to_owned(),
            container: id.clone(),
        };
        let full = format!("/kubepods/pod{UID}/{id}");
        for (cgroups, result) in [
            (
                format!("2:cpu:{full}\n1:pids:{full}\n0::/\n"),
                Ok(Some(expected.clone())),
            ),
            (
                format!("2:cpu:/crio-{id}.scope\n1:pids:{full}\n"),
                Ok(Some(expected.clone())),
            ),
            (
                format!("2:cpu:/crio-{id}.scope\n1:pids:/kubepods/pod{UID}\n"),
                Ok(Some(expected)),
            ),
            (
                format!("2:cpu:{full}\n1:pids:/kubepods/pod{UID}/{other}\n"),
                Err(Mixed),
            ),
            (
                format!("2:cpu:{full}\n1:pids:/crio-{other}.scope\n"),
                Err(Mixed),
            ),
            (
                format!("2:cpu:{full}\n1:pids:/kubepods/pod{STATIC}/{id}\n"),
                Err(Mixed),
            ),
            ("nonsense\n\n0:\n".to_owned(), Ok(None)),
        ] {
            assert_eq!(member(&cgroups), result, "{cgroups}");
        }
    }
}
