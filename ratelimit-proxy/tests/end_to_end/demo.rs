//! The demo: it needs nothing, shows decisions of both kinds, and what it sums up is what it showed.

use std::collections::BTreeMap;
use std::process::Stdio;

use crate::support::program::{Lines, address, ask, command, parts, run, run_unread, signal};
use crate::support::soon;

/// Requests by client: allowed and denied.
type Scores = BTreeMap<String, (u64, u64)>;

/// The decisions that were shown.
fn shown(text: &str) -> Scores {
    let mut scores = Scores::new();
    for line in text.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let [time, client, "GET" | "POST", _path, status, limit, _left, ..] = words[..] else { continue };
        assert!(time.ends_with('s'), "{line}");
        let (allowed, denied) = scores.entry(client.to_owned()).or_default();
        match status {
            "200" | "401" => *allowed += 1,
            "429" => *denied += 1,
            _ => panic!("{line}"),
        }
        assert!(["per-client", "login"].contains(&limit), "{line}");
    }
    scores
}

/// The table at the end.
fn summed_up(text: &str) -> Scores {
    let table = text.rsplit_once("denied\n").unwrap().1;
    let row = |line: &str| {
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        let [client, sent, allowed, denied] = &words[..] else { panic!("{line}") };
        let (allowed, denied): (u64, u64) = (allowed.parse().unwrap(), denied.parse().unwrap());
        assert_eq!(sent.parse::<u64>().unwrap(), allowed + denied, "{line}");
        (client.clone(), (allowed, denied))
    };
    table.lines().map(row).collect()
}

fn assert_consistent(text: &str, yours: u64) {
    let (shown, summed_up) = (shown(text), summed_up(text));
    assert_eq!(shown, summed_up, "{text}");
    assert_eq!(shown.len(), 4, "{text}");
    let allowed: u64 = shown.values().map(|(allowed, _)| allowed).sum();
    let denied: u64 = shown.values().map(|(_, denied)| denied).sum();
    assert!(allowed > 0 && denied > 0, "{text}");
    assert!(text.contains(&format!("\n{} requests in ", allowed + denied)), "{text}");
    assert!(text.contains(&format!(" s: {allowed} allowed, {denied} denied.")), "{text}");
    assert!(text.contains(&format!("The upstream saw {}", allowed + yours)), "{text}");
}

#[tokio::test]
async fn it_shows_decisions_of_both_kinds_and_sums_up() {
    let output = run(&["demo", "--for", "2s"]).await;
    let (code, out, err) = parts(&output);
    assert_eq!((code, err), (0, ""));
    assert!(!out.contains('\u{1b}'), "colours are for terminals");
    assert_consistent(out, 0);
}

#[tokio::test]
async fn its_addresses_are_real_and_an_interrupt_ends_it_with_the_summary() {
    let mut child = command(&["demo"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = Lines::of(child.stdout.take().unwrap());
    let open = address(&lines.line(&["open", "http://"]).await);
    let upstream = address(&lines.line(&["upstream", "http://"]).await);
    lines.line(&["429"]).await;
    assert_eq!(ask(open, "GET", "/", "").await.status, 200);
    assert_eq!(ask(upstream, "GET", "/items", "").await.status, 200);
    let limits = ask(open, "GET", "/api/limits", "").await;
    assert!(limits.text().contains("\"login\""), "{}", limits.text());
    let line = lines.line(&["curl -i http://"]).await;
    assert!(matches!(ask(address(&line), "GET", "/items", "").await.status, 200 | 429));
    signal(&child, "INT").await;
    assert_eq!(soon("the end", child.wait()).await.unwrap().code(), Some(0));
    lines.line(&["The upstream saw", "of them yours"]).await;
}

#[tokio::test]
async fn it_ends_quietly_when_nobody_reads() {
    let output = run_unread(&["demo"]).await;
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}
