use proptest::prelude::*;

use super::*;

const ENTRY: &str = r#"{"type":"tulle-cni","pod_namespace":"mesh"}"#;

fn list(text: &str) -> List {
    List::read(Form::List, text.as_bytes()).unwrap()
}

fn failure(form: Form, text: &str) -> String {
    List::read(form, text.as_bytes()).unwrap_err().to_string()
}

#[test]
fn entry_comes_last_and_nothing_else_changes() {
    for (before, after) in [
        (
            r#"{"name":"a","plugins":[{"type":"ptp"}]}"#,
            r#"{"name":"a","plugins":[{"type":"ptp"},ENTRY]}"#,
        ),
        (
            r#"{ "zone": 12345678901234567890, "name": "a", "x": 1.0, "plugins": [ {"type": "ptp", "mtu": 1e999}, {"type":"portmap"} ], "y": {"b":1,"a":2} }"#,
            r#"{ "zone": 12345678901234567890, "name": "a", "x": 1.0, "plugins": [ {"type": "ptp", "mtu": 1e999}, {"type":"portmap"}, ENTRY ], "y": {"b":1,"a":2} }"#,
        ),
        (
            "{\n  \"name\": \"ü\\u00e9\",\n  \"plugins\": [\n    {\"type\": \"ptp\"}\n  ]\n}\n",
            "{\n  \"name\": \"ü\\u00e9\",\n  \"plugins\": [\n    {\"type\": \"ptp\"},\n    ENTRY\n  ]\n}\n",
        ),
    ] {
        let after = after.replace("ENTRY", ENTRY);
        let before = list(before);
        assert!(!before.is_chained(ENTRY));
        assert_eq!(before.origin(), None);
        let chained = before.chained(ENTRY);
        assert_eq!(chained.text(), after);
        assert_eq!(chained, list(&after));
        assert!(chained.is_chained(ENTRY));
        assert_eq!(chained.origin(), Some(Origin::Chained));
        assert_eq!(chained.chained(ENTRY), chained);
        assert_eq!(chained.unchained(), before);
    }
}

#[test]
fn entries_of_the_mesh_are_replaced() {
    let expected = list(
        r#"{"name":"a","plugins":[{"type":"ptp"}, {"type":"portmap"}, ENTRY]}"#
            .replace("ENTRY", ENTRY)
            .as_str(),
    );
    for before in [
        r#"{"name":"a","plugins":[{"type":"istio-cni"}, {"type":"ptp"}, {"type":"portmap"}]}"#,
        r#"{"name":"a","plugins":[{"type":"ptp"}, {"type":"istio-cni"}, {"type":"portmap"}]}"#,
        r#"{"name":"a","plugins":[{"type":"ptp"}, {"type":"portmap"}, {"type":"istio-cni"}]}"#,
        r#"{"name":"a","plugins":[{"type":"tulle-cni"}, {"type":"istio-cni"}, {"type":"ptp"}, {"type":"portmap"}, {"type":"tulle-cni", "timeout_seconds": 1}]}"#,
        r#"{"name":"a","plugins":[{"type":"ptp"}, {"type":"portmap"}, {"type":"tulle-cni", "pod_namespace": "old"}]}"#,
    ] {
        assert!(!list(before).is_chained(ENTRY), "{before}");
        assert_eq!(list(before).chained(ENTRY), expected);
    }
}

#[test]
fn entry_that_somebody_else_formatted_is_still_ours() {
    let formatted = r#"{"name":"a","plugins":[{"type":"ptp"},
        { "pod_namespace" : "mesh", "type" : "tulle-cni" }]}"#;
    assert!(list(formatted).is_chained(ENTRY));
    let behind = r#"{"name":"a","plugins":[ENTRY,{"type":"ptp"}]}"#.replace("ENTRY", ENTRY);
    assert!(!list(&behind).is_chained(ENTRY));
}

#[test]
fn single_plugin_becomes_a_list_of_the_same_name() {
    let single = "{\n  \"name\": \"pods\", \"big\": 12345678901234567890,\n  \"cniVersion\": \"0.3.1\", \"type\": \"bridge\", \"x\": 1.0\n}\n";
    let list = List::read(Form::Single, single.as_bytes()).unwrap();
    assert_eq!(
        list.text(),
        format!(
            "{{\n  \"cniVersion\": \"0.3.1\",\n  \"name\": \"pods\",\n  \"plugins\": [\n    {}\n  ]\n}}\n",
            single.trim()
        )
    );
    assert_eq!(list.unspoken_versions(), None);
}

#[test]
fn versions_that_the_plugin_does_not_speak_are_found() {
    for (versions, unspoken) in [
        (r#""cniVersion":"1.0.0","#, None),
        (
            r#""cniVersion":"0.1.0","cniVersions":["0.1.0","1.1.0"],"#,
            None,
        ),
        (r#""cniVersion":"0.2.0","#, Some("0.2.0")),
        ("", Some("")),
    ] {
        let text = format!(r#"{{{versions}"name":"a","plugins":[{{"type":"ptp"}}]}}"#);
        assert_eq!(
            list(&text).unspoken_versions().as_deref(),
            unspoken,
            "{text}"
        );
    }
}

#[test]
fn what_no_runtime_would_load_is_no_list() {
    let plugins = "it has no plugin";
    for (form, text, expected) in [
        (
            Form::List,
            r#"{"plugins":[{"type":"ptp"}]}"#,
            "it has no name",
        ),
        (
            Form::List,
            r#"{"name":"","plugins":[{"type":"ptp"}]}"#,
            "it has no name",
        ),
        (Form::List, r#"{"name":"a"}"#, plugins),
        (Form::List, r#"{"name":"a","plugins":[]}"#, plugins),
        (
            Form::List,
            r#"{"name":"a","plugins":[{"type":""}]}"#,
            plugins,
        ),
        (
            Form::List,
            r#"{"name":"a","plugins":[{"type":"tulle-cni"},{"type":"istio-cni"}]}"#,
            "it has no plugin besides the mesh's",
        ),
        (
            Form::Single,
            r#"{"name":"a","type":"istio-cni"}"#,
            "it has no plugin besides the mesh's",
        ),
        (Form::Single, r#"{"type":"ptp"}"#, "it has no name"),
    ] {
        assert_eq!(failure(form, text), expected, "{text}");
    }
    for (form, text) in [
        (Form::List, ""),
        (Form::List, r#"{"name":"a","plugins":[{"type":"ptp"}"#),
        (Form::List, r#"{"name":"a","plugins":[{"type":"ptp"}]}}"#),
        (Form::List, r#"{"name":"a","plugins":{"type":"ptp"}}"#),
        (Form::List, r#"{"name":"a","plugins":["ptp"]}"#),
        (Form::List, r#"{"name":"a","plugins":[{"kind":"ptp"}]}"#),
        (Form::Single, r#"{"name":"a","plugins":[{"type":"ptp"}]}"#),
        (Form::Single, "[]"),
    ] {
        let found = failure(form, text);
        assert!(
            found.starts_with("it is no network configuration: "),
            "{found}"
        );
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(bytes in any::<Vec<u8>>(), single in any::<bool>()) {
        let form = if single { Form::Single } else { Form::List };
        let _ = List::read(form, &bytes);
    }

    #[test]
    fn taking_the_entry_out_undoes_putting_it_in(
        spaces in prop::collection::vec("[ \t\n]{0,3}", 16),
        kinds in prop::collection::vec("[a-z]{1,8}", 1..4),
    ) {
        let mut spaces = spaces.iter().cycle();
        let mut space = || spaces.next().unwrap().as_str();
        let mut plugins = Vec::new();
        for kind in &kinds {
            let [a, b, c] = [space(), space(), space()];
            plugins.push(format!("{a}{{{b}\"n\": 1.0, \"type\":{c}\"{kind}\"}}{a}"));
        }
        let [a, b, c] = [space(), space(), space()];
        let plugins = plugins.join(",");
        let text = format!("{a}{{\"plugins\"{b}:[{plugins}]{c},\"name\":\"x\"}}{a}");
        let before = list(&text);
        let chained = before.chained(ENTRY);
        prop_assert_eq!(&chained, &list(chained.text()));
        prop_assert_eq!(chained.unchained(), before);
    }
}
