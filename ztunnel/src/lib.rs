//! The L4 node proxy: captures, tunnels, authorizes

pub mod state;
