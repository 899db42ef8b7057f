//! The mesh of real binaries on network namespaces.

#![expect(clippy::indexing_slicing, reason = "a test that is wrong may panic")]

use std::{process::ExitCode, time::Duration};

use tulle_tests::{case, harness};

mod added;
mod agent;
mod churn;
mod control;
mod dns;
mod isolation;
mod kubernetes;
mod local;
mod name_server;
mod names;
mod node;
mod observed;
mod paths;
mod pods;
mod policy;
mod probes;
mod services;
mod streams;
mod telemetry;
mod traffic;
mod upgrade;
mod world;

fn main() -> ExitCode {
    harness::main(&[
        case!(streams::gigabyte).limit(Duration::from_secs(180)),
        case!(control::ca_gone_past_expiry).limit(Duration::from_secs(150)),
        case!(control::renewed_under_traffic),
        case!(control::plane_gone_and_back),
        case!(agent::killed_and_restarted),
        case!(agent::catches_up),
        case!(agent::uninstalled),
        case!(churn::two_hundred_pods).limit(Duration::from_secs(150)),
        case!(dns::services),
        case!(dns::forwarded),
        case!(dns::passed_over),
        case!(dns::drained),
        case!(dns::loopback),
        case!(dns::left_alone),
        case!(names::followed),
        case!(names::unanswered),
        case!(isolation::proxy_ports),
        case!(local::file_is_reloaded),
        case!(node::agent_killed_at_each_step).limit(Duration::from_secs(120)),
        case!(node::ztunnel_killed_at_each_step),
        case!(added::checked),
        case!(added::garbage),
        case!(added::uncapturable),
        case!(added::of_other_users),
        case!(added::killed_at_each_step),
        case!(kubernetes::followed).limit(Duration::from_secs(120)),
        case!(kubernetes::told).limit(Duration::from_secs(120)),
        case!(kubernetes::asked_for).limit(Duration::from_secs(120)),
        case!(kubernetes::held_to_annotations).limit(Duration::from_secs(120)),
        case!(kubernetes::reads_no_secrets).limit(Duration::from_secs(120)),
        case!(kubernetes::kinds_come_and_go).limit(Duration::from_secs(120)),
        case!(kubernetes::earlier_versions).limit(Duration::from_secs(120)),
        case!(kubernetes::services::listed_endpoints).limit(Duration::from_secs(120)),
        case!(kubernetes::services::entries).limit(Duration::from_secs(120)),
        case!(kubernetes::services::statuses).limit(Duration::from_secs(120)),
        case!(kubernetes::waypoints::deployed).limit(Duration::from_secs(180)),
        case!(kubernetes::waypoints::customised).limit(Duration::from_secs(240)),
        case!(kubernetes::operator::installs_and_leaves_nothing).limit(Duration::from_secs(180)),
        case!(kubernetes::operator::every_value),
        case!(kubernetes::operator::refused),
        case!(kubernetes::operator::waypoints),
        case!(kubernetes::routes::told_of).limit(Duration::from_secs(120)),
        case!(kubernetes::half_written).limit(Duration::from_secs(120)),
        case!(kubernetes::rotation::rotated).limit(Duration::from_secs(180)),
        case!(kubernetes::replicas::moved).limit(Duration::from_secs(120)),
        case!(kubernetes::replicas::taken_over).limit(Duration::from_secs(240)),
        case!(kubernetes::interrupted).limit(Duration::from_secs(120)),
        case!(kubernetes::expired).limit(Duration::from_secs(120)),
        case!(kubernetes::slow_store).limit(Duration::from_secs(180)),
        case!(node::annotated),
        case!(node::flushed),
        case!(node::rebooted),
        case!(node::refused_by_ztunnel),
        case!(paths::permissive),
        case!(paths::strict),
        case!(paths::ipv4_alone),
        case!(paths::ipv6_alone),
        case!(pods::removed_under_load),
        case!(pods::entering),
        case!(pods::leaving),
        case!(policy::allow_and_deny),
        case!(policy::attaching_closes),
        case!(policy::tightening_closes),
        case!(policy::strict_closes_plaintext),
        case!(policy::loosening_closes_nothing),
        case!(probes::by_address),
        case!(probes::by_protocol),
        case!(services::itself),
        case!(services::headless),
        case!(services::named_target_port),
        case!(services::unhealthy_is_skipped),
        case!(services::refusing_is_replaced),
        case!(services::unknown_destination),
        case!(streams::half_close),
        case!(streams::reset),
        case!(streams::nobody_listens),
        case!(streams::server_first),
        case!(streams::thousand_at_once),
        case!(telemetry::standard_metrics),
        case!(upgrade::killed_and_restarted),
        case!(upgrade::restarted_without_control_plane),
        case!(upgrade::drains),
        case!(upgrade::handed_over),
        case!(upgrade::latest_killed),
    ])
}
