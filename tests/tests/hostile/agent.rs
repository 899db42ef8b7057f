//! An agent that has lost its mind.

use std::{
    fs::{self, File},
    io::{self, IoSlice, Read},
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use prost::Message;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::task::spawn_blocking;
use tulle_lab::sandbox::Sandbox;
use tulle_proto::zds::{
    AddWorkload, DelWorkload, KeepWorkload, SnapshotSent, WorkloadInfo, WorkloadRequest,
    workload_request::Payload,
};

use crate::world::{SOON, World, soon};

/// 61211: descriptors that are no network namespace, packets that are no message. ztunnel refuses them, comes back,
/// and serves its pods once the agent is itself again.
pub(crate) async fn a_broken_agent_is_survived(sandbox: Sandbox) -> Result<()> {
    let mut world = World::start(&sandbox).await?;
    let socket = world.mesh.lab().dir().join("node2/ztunnel.sock");
    let aside = socket.with_extension("aside");
    fs::rename(&socket, &aside)?;
    let agent = BrokenAgent::listen(&socket)?;
    world
        .mesh
        .ztunnel_mut("node2")
        .process_mut()
        .restart()
        .await?;
    let broken = spawn_blocking(move || {
        for (name, packets) in insanities()? {
            agent.send_all(packets).context(name)?;
        }
        anyhow::Ok(())
    });
    soon("ztunnel has come back each time", async { broken.await? }).await?;
    world
        .mesh
        .ztunnel_mut("node2")
        .process_mut()
        .check_alive()?;

    fs::rename(&aside, &socket)?;
    let ztunnel = world.mesh.ztunnel_mut("node2");
    ztunnel.wait_ready(SOON).await?;
    tulle_lab::wait_for("the pods are served", SOON, async || {
        world.honest_request().await.ok()
    })
    .await?;
    world.recovers().await
}

type Packets = Vec<(Vec<u8>, Vec<OwnedFd>)>;

fn insanities() -> Result<Vec<(&'static str, Packets)>> {
    let file = |path: &str| Ok::<OwnedFd, io::Error>(File::open(path)?.into());
    let named = add("uid-1", "web");
    Ok(vec![
        ("hangs up", vec![]),
        ("noise", vec![(vec![0xff; 100], vec![])]),
        ("a message without content", vec![(vec![0x12, 0], vec![])]),
        ("a packet too long", vec![(vec![0; 64 << 10], vec![])]),
        ("no descriptor", vec![(named.clone(), vec![])]),
        (
            "two descriptors",
            vec![(
                named.clone(),
                vec![file("/proc/self/ns/net")?, file("/proc/self/ns/net")?],
            )],
        ),
        ("a device", vec![(named.clone(), vec![file("/dev/null")?])]),
        ("a directory", vec![(named.clone(), vec![file("/")?])]),
        (
            "another kind of namespace",
            vec![(named.clone(), vec![file("/proc/self/ns/mnt")?])],
        ),
        (
            "a socket",
            vec![(
                named,
                vec![Socket::new(Domain::UNIX, Type::STREAM, None)?.into()],
            )],
        ),
        (
            "nobody's uid",
            vec![(add("", "web"), vec![file("/proc/self/ns/net")?])],
        ),
        (
            "an endless name",
            vec![(add("uid-2", &"x".repeat(900)), vec![file("/dev/null")?])],
        ),
        (
            "a descriptor that nobody wants",
            vec![(del("uid-1"), vec![file("/proc/self/ns/net")?])],
        ),
        ("lets go of what is not there", vec![(del("uid-9"), vec![])]),
        (
            "keeps what is not there, late",
            vec![(keep("uid-9"), vec![])],
        ),
    ])
}

fn add(uid: &str, name: &str) -> Vec<u8> {
    encode(Payload::Add(AddWorkload {
        uid: uid.into(),
        workload_info: Some(WorkloadInfo {
            name: name.into(),
            namespace: "shop".into(),
            service_account: "web".into(),
        }),
    }))
}

fn del(uid: &str) -> Vec<u8> {
    encode(Payload::Del(DelWorkload { uid: uid.into() }))
}

fn keep(uid: &str) -> Vec<u8> {
    encode(Payload::Keep(KeepWorkload { uid: uid.into() }))
}

fn encode(payload: Payload) -> Vec<u8> {
    let payload = Some(payload);
    WorkloadRequest { payload }.encode_to_vec()
}

struct BrokenAgent(Socket);

impl BrokenAgent {
    fn listen(path: &Path) -> Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(8)?;
        // Holds for accepting, too.
        socket.set_read_timeout(Some(SOON))?;
        Ok(Self(socket))
    }

    /// Takes the next connection and sends these, each when the one before was answered.
    fn send_all(&self, packets: Packets) -> Result<()> {
        let (mut connection, _) = self.0.accept().context("ztunnel does not come back")?;
        connection.set_read_timeout(Some(SOON))?;
        ensure!(receive(&mut connection)?.is_some(), "no greeting");
        // What comes before is in order, so that it comes back soon.
        send(
            &connection,
            &encode(Payload::SnapshotSent(SnapshotSent {})),
            &[],
        )?;
        ensure!(
            receive(&mut connection)?.is_some(),
            "no answer to a good message"
        );
        for (bytes, descriptors) in packets {
            send(&connection, &bytes, &descriptors)?;
            let Some(answer) = receive(&mut connection)? else {
                break;
            };
            let refused = answer.len() > 4;
            let harmless = descriptors.is_empty();
            ensure!(refused || harmless, "accepted: {answer:?}");
        }
        Ok(())
    }
}

fn send(connection: &Socket, bytes: &[u8], descriptors: &[OwnedFd]) -> Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights };
    let bytes = [IoSlice::new(bytes)];
    sendmsg::<()>(
        connection.as_raw_fd(),
        &bytes,
        rights,
        MsgFlags::empty(),
        None,
    )?;
    Ok(())
}

/// The next packet, or `None` when ztunnel has hung up.
fn receive(connection: &mut Socket) -> Result<Option<Vec<u8>>> {
    let mut packet = vec![0; 4096];
    match connection.read(&mut packet) {
        Ok(0) => Ok(None),
        Ok(length) => {
            packet.truncate(length);
            Ok(Some(packet))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error).context("ztunnel neither answers nor hangs up"),
    }
}
