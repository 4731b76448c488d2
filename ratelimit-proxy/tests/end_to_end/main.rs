//! The proxy from the outside: its program, its sockets, its pages. One binary for all of it: linking one for each file
//! took longer than running them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

mod support;

mod abuse;
mod admin;
mod asked;
mod audit;
mod audit_cluster;
mod beside;
mod claims;
mod cli;
mod commands;
mod config_errors;
mod dashboard;
mod demo;
mod deny;
mod deploy;
mod doubts;
mod drain;
mod envoy;
mod faults_table;
mod forward;
mod grpc;
mod http2;
mod hygiene;
mod identity;
mod jwt;
mod keys;
mod limits_hold;
mod listeners;
mod memory;
mod monitoring;
mod names;
mod nginx_upstream;
mod otlp;
mod outage;
mod outcome;
mod overload;
mod paths;
mod policy;
mod profile;
mod readme;
mod reload;
mod replay;
mod rls;
mod secrets;
mod secure_upstreams;
mod shared;
mod slow_clients;
mod smuggling;
mod soak;
mod steering;
mod tls;
mod topologies;
mod upgrade;
mod upstreams;
mod websocket_h2;
