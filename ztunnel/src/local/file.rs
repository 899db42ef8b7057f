//! Text of the local file to resources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde::Deserialize;
use serde_saphyr::{Options, Spanned};
use tulle_model as model;
use tulle_model::{Authorization, Health, PortMapping, ServiceKey};

use tulle_state::{Resource, ResourceName};

use crate::schema::{Endpoint, Policy, Service, Workload};

/// Reads the file. All of it is good, or none of it is used.
///
/// # Errors
/// [`InvalidFile`] names the line: a syntax error, an unknown or missing key, a value out of range, a name that is
/// used twice, an endpoint without workload.
pub fn parse(text: &str) -> Result<Vec<Resource>, InvalidFile> {
    let file: File = serde_saphyr::from_str_with_options(text, options())?;
    let mut workloads = Vec::new();
    for Spanned {
        value, referenced, ..
    } in file.workloads
    {
        let workload = model::Workload::try_from(value);
        let workload = workload.map_err(|error| InvalidFile::at(referenced.line(), error))?;
        workloads.push((referenced.line(), workload));
    }
    let mut resources = Vec::new();
    for Spanned {
        value, referenced, ..
    } in file.services
    {
        attach(&value, &mut workloads)
            .map_err(|error| InvalidFile::at(referenced.line(), error))?;
        let service = Resource::Service(Box::new(value.into()));
        resources.push((referenced.line(), service));
    }
    for Spanned {
        value, referenced, ..
    } in file.policies
    {
        let policy = Resource::Policy(Box::new(Authorization::from(value)));
        resources.push((referenced.line(), policy));
    }
    let workloads = workloads.into_iter();
    resources.extend(workloads.map(|(line, w)| (line, Resource::Workload(Box::new(w)))));
    unique(resources)
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct InvalidFile {
    line: Option<u64>,
    message: String,
}

impl InvalidFile {
    /// The line where it was noticed, counted from 1.
    pub fn line(&self) -> Option<u64> {
        self.line
    }

    fn at(line: u64, what: impl fmt::Display) -> Self {
        Self {
            line: Some(line),
            message: format!("line {line}: {what}"),
        }
    }
}

impl From<serde_saphyr::Error> for InvalidFile {
    fn from(error: serde_saphyr::Error) -> Self {
        let line = error.location().map(|location| location.line());
        let error = error.without_snippet();
        let message = error.to_string();
        Self { line, message }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct File {
    workloads: Vec<Spanned<Workload>>,
    services: Vec<Spanned<Service>>,
    policies: Vec<Spanned<Policy>>,
}

/// Large enough for a bench with 100 000 workloads; the file is the operator's own.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 50_000_000,
            max_nodes: 20_000_000,
            max_total_scalar_bytes: 256 * 1024 * 1024,
        },
    }
}

/// Turns the endpoints that a service lists into services of the workloads they are.
fn attach(
    service: &Service,
    workloads: &mut [(u64, model::Workload)],
) -> Result<(), InvalidEndpoint> {
    let key = service.key();
    for endpoint in service.endpoints.values() {
        let uid = &endpoint.workload_uid;
        let workload = workloads
            .iter_mut()
            .map(|(_, workload)| workload)
            .find(|workload| *workload.uid.as_str() == **uid)
            .ok_or_else(|| InvalidEndpoint::Unknown(Arc::clone(uid)))?;
        attach_one(&key, endpoint, workload)?;
    }
    Ok(())
}

fn attach_one(
    key: &ServiceKey,
    endpoint: &Endpoint,
    workload: &mut model::Workload,
) -> Result<(), InvalidEndpoint> {
    if Health::from(endpoint.status) != workload.health {
        return Err(InvalidEndpoint::Status(workload.uid.clone()));
    }
    let ports: BTreeMap<u16, u16> = endpoint.port.clone();
    let ports = ports
        .into_iter()
        .map(|(service_port, target_port)| PortMapping {
            service_port,
            target_port,
        });
    workload.services.insert(key.clone(), ports.collect());
    Ok(())
}

/// What is wrong with an endpoint that a service lists.
#[derive(Debug, thiserror::Error)]
enum InvalidEndpoint {
    #[error("endpoint {0:?} is none of the workloads of this file")]
    Unknown(Arc<str>),
    #[error("endpoint {0} has another status than its workload")]
    Status(model::Uid),
}

/// Two resources of one name would leave to chance which one counts.
fn unique(resources: Vec<(u64, Resource)>) -> Result<Vec<Resource>, InvalidFile> {
    let mut names: BTreeSet<ResourceName> = BTreeSet::new();
    for (line, resource) in &resources {
        if !names.insert(resource.name()) {
            let what = format_args!("{} is defined twice", resource.name());
            return Err(InvalidFile::at(*line, what));
        }
    }
    Ok(resources
        .into_iter()
        .map(|(_, resource)| resource)
        .collect())
}

#[cfg(test)]
mod tests;
