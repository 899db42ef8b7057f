//! The primary CNI plugin of the lab: it joins a pod to its node by a cable, as `ptp` does.
//!
//! ```text
//! pod: eth0, its addresses ───cable─── node: <link>, the gateway's addresses, a route to each address of the pod
//! ```
//!
//! Every pod's next hop is the same link-local address, held by the node's end of the cable, so nothing depends on the
//! pod's range. ADD and DEL are all it knows; a runtime asks it for nothing else here. The executable is `tulle-lab-cni`.
//!
//! Spec: CNI 1.1.0.

use std::{env, io::Read, net::IpAddr, process::ExitCode};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use serde_json::{Value, json};
use tulle_net::Netns;

use crate::{
    address::POD_GATEWAYS,
    link::{Links, Route},
};

/// Does what the environment and standard input ask for.
pub fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(execute()));
    match done {
        Ok(result) => {
            print!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!(
                "{}",
                json!({"cniVersion": VERSION, "code": 999, "msg": format!("{error:#}")})
            );
            ExitCode::FAILURE
        }
    }
}

/// What is printed.
async fn execute() -> Result<String> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let config: Value = serde_json::from_str(&input).context("no configuration")?;
    let link = config
        .pointer("/runtimeConfig/link")
        .and_then(Value::as_str)
        .context("runtimeConfig.link is not told")?;
    let node = Links::open(&Netns::current()?)?;
    match env::var("CNI_COMMAND")?.as_str() {
        "ADD" => {
            let interface = env::var("CNI_IFNAME")?;
            let addresses = texts(&config, "/runtimeConfig/ips")?;
            let addresses: Vec<IpNet> = parse(&addresses)?;
            let sources: Vec<IpAddr> = parse(&texts(&config, "/sources")?)?;
            let path = env::var("CNI_NETNS")?;
            let pod = Netns::open(&path).with_context(|| format!("cannot open {path}"))?;
            join(&node, link, &pod, &interface, &addresses, &sources).await?;
            Ok(result(&path, link, &interface, &addresses).to_string())
        }
        // It may be gone already.
        "DEL" => Ok(node
            .remove(link)
            .await
            .map_or_else(|_| String::new(), |()| String::new())),
        other => bail!("{other} is not spoken here"),
    }
}

async fn join(
    node: &Links,
    link: &str,
    pod: &Netns,
    interface: &str,
    addresses: &[IpNet],
    sources: &[IpAddr],
) -> Result<()> {
    node.veth(link, pod, interface).await?;
    let inside = Links::open(pod)?;
    let (node_end, pod_end) = (node.index(link).await?, inside.index(interface).await?);
    node.up(node_end).await?;
    inside.up(pod_end).await?;
    for (address, source) in addresses.iter().map(IpNet::addr).zip(sources) {
        let gateway = gateway(address);
        give(node, node_end, &inside, pod_end, address, *source).await?;
        inside.route(default_route(pod_end, gateway)).await?;
        node.address(node_end, gateway).await?;
    }
    Ok(())
}

/// Gives a pod an address, and its node the route to it, over the cable between these two ends.
pub(crate) async fn give(
    node: &Links,
    node_end: u32,
    pod: &Links,
    pod_end: u32,
    address: IpAddr,
    source: IpAddr,
) -> Result<()> {
    pod.address(pod_end, address).await?;
    let to_pod = Route {
        to: address.into(),
        index: node_end,
        via: None,
        source: Some(source),
    };
    node.route(to_pod).await
}

fn result(netns: &str, link: &str, interface: &str, addresses: &[IpNet]) -> Value {
    let ip = |address: &IpNet| json!({"address": address, "gateway": gateway(address.addr()), "interface": 1});
    let route = |address: &IpNet| {
        let everything = if address.addr().is_ipv4() {
            "0.0.0.0/0"
        } else {
            "::/0"
        };
        json!({"dst": everything, "gw": gateway(address.addr())})
    };
    json!({
        "cniVersion": VERSION,
        "interfaces": [{"name": link}, {"name": interface, "sandbox": netns}],
        "ips": addresses.iter().map(ip).collect::<Vec<_>>(),
        "routes": addresses.iter().map(route).collect::<Vec<_>>(),
        "dns": {},
    })
}

fn texts(config: &Value, pointer: &str) -> Result<Vec<String>> {
    let texts = config.pointer(pointer).and_then(Value::as_array);
    let texts = texts.with_context(|| format!("{pointer} is not told"))?;
    let text = |text: &Value| text.as_str().map(str::to_owned);
    texts
        .iter()
        .map(|value| text(value).with_context(|| format!("{pointer} has {value}")))
        .collect()
}

fn parse<T: std::str::FromStr>(texts: &[String]) -> Result<Vec<T>> {
    let parsed = texts.iter().map(|text| {
        let parsed = text.parse();
        parsed.map_err(|_| anyhow::anyhow!("{text} is no address"))
    });
    parsed.collect()
}

fn gateway(address: IpAddr) -> IpAddr {
    let [v4, v6] = POD_GATEWAYS;
    if address.is_ipv4() { v4 } else { v6 }
}

fn default_route(index: u32, gateway: IpAddr) -> Route {
    let to = match gateway {
        IpAddr::V4(_) => ipnet::Ipv4Net::default().into(),
        IpAddr::V6(_) => ipnet::Ipv6Net::default().into(),
    };
    Route {
        to,
        index,
        via: Some(gateway),
        source: None,
    }
}

/// The version of CNI that it speaks.
pub(crate) const VERSION: &str = "1.1.0";
