//! `GET /api/upstreams`: where requests go, and what is known of the servers.

use std::net::IpAddr;

use serde::Serialize;

use super::view::View;

/// All of them.
#[derive(Debug, Serialize)]
pub(super) struct Upstreams {
    upstreams: Vec<UpstreamView>,
}

#[derive(Debug, Serialize)]
struct UpstreamView {
    /// Which requests it takes, in words.
    #[serde(rename = "match")]
    matches: String,
    balance: &'static str,
    retries: u32,
    /// The path that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    health_check: Option<String>,
    servers: Vec<ServerView>,
}

#[derive(Debug, Serialize)]
struct ServerView {
    url: String,
    /// Which of the addresses of its name it is at.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// `up`, `down` by its health check, or `ejected` for a while because requests fail.
    state: &'static str,
}

impl Upstreams {
    /// As they are now.
    pub(super) fn of(view: &View) -> Self {
        let rules = view.rules();
        let upstreams = rules.upstreams.groups().iter().map(|group| UpstreamView {
            matches: group.name.to_string(),
            balance: group.balance(),
            retries: group.retries,
            health_check: group.check.as_ref().map(|check| check.path.to_string()),
            servers: group
                .servers
                .iter()
                .map(|server| ServerView {
                    url: server.target.to_string(),
                    address: server.target.address(),
                    state: server.state(),
                })
                .collect(),
        });
        Self { upstreams: upstreams.collect() }
    }
}
