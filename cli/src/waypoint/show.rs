//! Waypoints, in tables.

use std::process::ExitCode;

use anyhow::{Result, bail};
use comfy_table::{Table, presets};
use serde_json::Value;
use tulle_kubernetes::Objects;

use super::{
    StatusArgs, Where, apply,
    gateway::{is_usable, programmed, revision, traffic, waypoints},
};
use crate::{
    json::{items, name, namespace, text},
    progress::Progress,
};

pub(super) async fn list(objects: &Objects, place: &Where) -> Result<ExitCode> {
    let found = waypoints(objects, place.namespace(objects)).await?;
    if found.is_empty() {
        println!("{}", nothing(place, objects));
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"];
    let mut rows = Rows::new(place.all_namespaces, &head);
    for gateway in &found {
        let cells = [
            name(gateway),
            revision(gateway),
            traffic(gateway),
            programmed(gateway),
        ];
        rows.add(gateway, &cells);
    }
    rows.print();
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn status(objects: &Objects, args: &StatusArgs) -> Result<ExitCode> {
    let (place, only) = (&args.place, args.name.as_deref());
    let of = place.namespace(objects);
    if args.wait {
        apply::wait(objects, of, only, args.waypoint_timeout, &Progress::new()).await?;
    }
    let mut found = waypoints(objects, of).await?;
    found.retain(|gateway| only.is_none_or(|only| name(gateway) == only));
    if found.is_empty() {
        if let Some(only) = only {
            bail!(
                "there is no waypoint {only} in namespace {}",
                of.unwrap_or_default()
            );
        }
        println!("{}", nothing(place, objects));
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"];
    let mut rows = Rows::new(place.all_namespaces, &head);
    for gateway in &found {
        let mut conditions = items(gateway, "/status/conditions").peekable();
        if conditions.peek().is_none() {
            let cells = [
                name(gateway),
                "Unknown",
                "",
                "",
                "no control plane has said anything of it",
            ];
            rows.add(gateway, &cells);
        }
        for condition in conditions {
            let part = |pointer| text(condition, pointer);
            let cells = [
                name(gateway),
                part("/status"),
                part("/type"),
                part("/reason"),
                part("/message"),
            ];
            rows.add(gateway, &cells);
        }
    }
    rows.print();
    Ok(match found.iter().all(is_usable) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

impl Where {
    fn namespace<'a>(&'a self, objects: &'a Objects) -> Option<&'a str> {
        let one = self
            .namespace
            .as_deref()
            .unwrap_or(objects.client().namespace());
        (!self.all_namespaces).then_some(one)
    }
}

fn nothing(place: &Where, objects: &Objects) -> String {
    match place.namespace(objects) {
        Some(namespace) => format!("There are no waypoints in namespace {namespace}."),
        None => "There are no waypoints.".to_owned(),
    }
}

/// A table, with namespaces if there are several.
struct Rows {
    table: Table,
    with_namespace: bool,
}

impl Rows {
    fn new(with_namespace: bool, head: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let namespace = with_namespace.then_some("NAMESPACE");
        table.set_header(namespace.iter().chain(head));
        Self {
            table,
            with_namespace,
        }
    }

    fn add(&mut self, gateway: &Value, cells: &[&str]) {
        let namespace = self.with_namespace.then_some(namespace(gateway));
        self.table.add_row(namespace.iter().chain(cells));
    }

    fn print(&self) {
        println!("{}", self.table.trim_fmt());
    }
}
