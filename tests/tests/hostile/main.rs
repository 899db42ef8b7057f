//! Hostile peers against the real mesh: what they try is refused, what they cost is bounded, and nobody else notices.
//! Each test names the row of the threat list that it replays.

use std::{process::ExitCode, time::Duration};

use tulle_tests::{case, harness};

mod agent;
mod certificates;
mod claims;
mod connections;
mod control_plane;
mod floods;
mod garbage;
mod peer;
mod reviewed;
mod targets;
mod tokens;
mod wire;
mod world;

fn main() -> ExitCode {
    harness::main(&[
        case!(floods::rapid_reset_leaves_neighbours_alone).limit(Duration::from_secs(150)),
        case!(agent::a_broken_agent_is_survived),
        case!(certificates::only_a_mesh_identity_of_our_root_gets_in),
        case!(claims::headers_decide_nothing),
        case!(connections::stalled_handshakes_leave_places_for_others),
        case!(connections::tunnels_are_bounded_per_pod),
        case!(connections::connections_without_tunnels_are_bounded_per_pod),
        case!(control_plane::garbage_and_floods_are_cut),
        case!(control_plane::strangers_leave_places_for_others),
        case!(control_plane::only_known_types_are_served),
        case!(control_plane::pages_for_operators_are_not_for_pods),
        case!(garbage::what_is_no_hbone_is_cut),
        case!(reviewed::tokens_of_an_api_server).limit(Duration::from_secs(120)),
        case!(targets::only_the_pod_itself_is_reached),
        case!(tokens::certificates_need_the_right_token),
        case!(tokens::configuration_needs_the_right_node),
    ])
}
