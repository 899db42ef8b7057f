use tulle_model::TunnelProtocol;

use super::*;
use crate::testing::workload_entry;

fn translate(metadata: &str, spec: &str) -> Result<Workload, Untranslatable> {
    let entry = workload_entry(&format!(
        "metadata: {{name: vm, namespace: shop{metadata}}}\nspec: {{{spec}}}\n"
    ));
    let (mesh, labels) = (Mesh::default(), entry.labels());
    let around = MachineSurroundings {
        network: "net",
        ..MachineSurroundings::default()
    };
    machine(&mesh, machine_of(&entry, "uid", &labels), around)
}

#[test]
fn an_entry_becomes_a_workload() {
    let vm = translate(
        ", labels: {app: a, version: v1}",
        "address: 192.0.2.1, labels: {app: b}, locality: r/z/s/t, weight: 7, serviceAccount: db, network: far",
    );
    let vm = vm.unwrap();
    assert_eq!(vm.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        vm.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/db"
    );
    let texts = [
        &vm.canonical_name,
        &vm.canonical_revision,
        &vm.workload_name,
        &vm.network,
    ];
    assert_eq!(texts.map(|text| &**text), ["b", "v1", "vm", "far"]);
    let place = [&vm.locality.region, &vm.locality.zone, &vm.locality.subzone];
    assert_eq!(place.map(|text| &**text), ["r", "z", "s/t"]);
    assert_eq!(vm.capacity, 7);
    assert_eq!(vm.tunnel_protocol, TunnelProtocol::None);
}

#[test]
fn what_is_not_said_is_as_for_others() {
    let vm = translate("", "address: '::ffff:192.0.2.1'").unwrap();
    assert_eq!(vm.addresses, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(
        vm.identity.to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    assert_eq!(
        (vm.capacity, &*vm.network, &*vm.locality.region),
        (1, "net", "")
    );
    let grouped = translate(
        ", annotations: {istio.io/autoRegistrationGroup: g}",
        "address: 192.0.2.1",
    );
    assert_eq!(&*grouped.unwrap().workload_name, "g");
    let tunnel = translate(
        "",
        "address: 192.0.2.1, labels: {networking.istio.io/tunnel: http}",
    );
    assert!(tunnel.unwrap().native_tunnel);
}

#[test]
fn an_address_is_one_or_a_name() {
    let long = format!("address: {}.example", "a".repeat(64));
    for (spec, name) in [
        ("address: db.example.com", Some("db.example.com")),
        ("address: 'db.example.com.'", Some("db.example.com.")),
        ("address: '*.example.com'", Some("*.example.com")),
        ("address: under_score", Some("under_score")),
        ("address: unix:///run/db.sock", None),
        ("address: '@abstract'", None),
        ("address: a..b", None),
        ("address: 'a b'", None),
        ("address: '192.0.2.1/32'", None),
        ("address: ''", None),
        (long.as_str(), None),
    ] {
        match (translate("", spec), name) {
            (Ok(vm), Some(name)) => {
                assert_eq!(
                    (vm.hostname.as_deref(), vm.addresses.len()),
                    (Some(name), 0)
                );
            }
            (Err(Untranslatable::Endpoint), None) => {}
            (other, _) => panic!("{spec}: {other:?}"),
        }
    }
    let account = translate("", "address: 192.0.2.1, serviceAccount: 'a/b'");
    assert!(matches!(account, Err(Untranslatable::Identity(_))));
}

#[test]
fn whoever_probes_a_machine_tells_of_its_health() {
    let of = |status: &str| {
        let entry = workload_entry(&format!(
            "metadata: {{name: vm, namespace: shop}}\nspec: {{address: 192.0.2.1}}\n{status}\n"
        ));
        let (mesh, labels) = (Mesh::default(), entry.labels());
        let around = MachineSurroundings::default();
        machine(&mesh, machine_of(&entry, "uid", &labels), around)
            .unwrap()
            .health
    };
    let told = |status: &str| {
        of(&format!(
            "status: {{conditions: [{{type: Healthy, status: '{status}'}}]}}"
        ))
    };
    assert_eq!(of(""), Health::Healthy);
    assert_eq!(told("True"), Health::Healthy);
    assert_eq!(told("Unknown"), Health::Healthy);
    assert_eq!(told("False"), Health::Unhealthy);
}
