//! Waypoints: requests through the real control plane, node proxies and waypoint, from and to real clients and servers.

use std::process::ExitCode;

use tulle_tests::{case, harness};

mod app;
mod authorizers;
mod bytes;
mod conformance;
mod deployed;
mod desync;
mod limits;
mod policies;
mod requests;
mod routes;
mod served;
mod sessions;
mod slow;
mod telemetry;
mod tokens;
mod traffic;
mod upgrades;
mod world;

fn main() -> ExitCode {
    harness::main(&[
        case!(deployed::by_a_gateway_and_a_label),
        case!(requests::each_finds_an_endpoint),
        case!(requests::both_versions),
        case!(requests::failures_are_told),
        case!(routes::take_what_fits),
        case!(routes::share_requests),
        case!(routes::change_requests),
        case!(routes::send_clients_elsewhere),
        case!(routes::try_again),
        case!(routes::limit_time),
        case!(routes::copy_requests),
        case!(routes::let_pages_call),
        case!(routes::are_followed),
        case!(routes::of_istio),
        case!(sessions::by_cookie),
        case!(sessions::by_header),
        case!(slow::readers_are_cut_off),
        case!(slow::connections_are_begun_anew),
        case!(traffic::subsets),
        case!(traffic::failing_endpoints_are_left_alone),
        case!(traffic::what_is_alike_stays_together),
        case!(traffic::limits_hold),
        case!(desync::of_http1),
        case!(desync::of_http2),
        case!(desync::spellings),
        case!(conformance::mesh_http),
        case!(conformance::mesh_grpc),
        case!(policies::hold),
        case!(policies::see_requests),
        case!(policies::hold_behind_routes),
        case!(policies::are_told),
        case!(policies::are_tried_out),
        case!(policies::see_tokens),
        case!(policies::see_tokens_behind_routes),
        case!(tokens::keys_are_asked_for),
        case!(tokens::keys_come_from_outside),
        case!(tokens::nobody_is_asked_who_is_near),
        case!(tokens::claims_choose_routes),
        case!(authorizers::by_grpc),
        case!(authorizers::by_http),
        case!(authorizers::see_bodies),
        case!(telemetry::traces_go_on),
        case!(telemetry::collectors_by_http),
        case!(telemetry::lines_and_labels),
        case!(limits::count_here),
        case!(limits::count_behind_routes),
        case!(limits::count_there),
        case!(limits::asked_again),
        case!(upgrades::of_http1),
        case!(upgrades::of_http2),
        case!(upgrades::to_http2),
        case!(upgrades::are_refused),
        case!(upgrades::follow_policy),
        case!(upgrades::last),
        case!(upgrades::keep_up),
        case!(bytes::pass),
        case!(bytes::server_speaks_first),
        case!(served::nothing_else),
        case!(served::last_answers_arrive),
        case!(served::removed_and_back),
        case!(served::endpoints_are_replaced),
        case!(served::node_proxy_is_replaced),
    ])
}
