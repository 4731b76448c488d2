//! What replicas tell each other besides counters: every replica knows within a second, the later note counts, and a
//! store that lost its notes is told again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use ratelimit_core::{AsKey as _, KeyBuf, Limit, Limiter};
use ratelimit_redis::{Board, Note, RedisStore};
use redis_testkit::{Cluster, Server};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

async fn store(server: &Server) -> RedisStore {
    RedisStore::builder(server.url()).deadline(Duration::from_secs(5)).connect().await.unwrap()
}

fn note(name: &str, text: &str, stamp: u64) -> Note {
    Note { name: name.to_owned(), stamp, text: text.as_bytes().to_vec() }
}

/// Waits until somebody knows these, by name and text.
async fn knows(board: &mut watch::Receiver<Arc<Board>>, wanted: &[(&str, &str)]) {
    let known = |board: &Arc<Board>| {
        let mut notes: Vec<_> = board
            .notes
            .iter()
            .map(|note| (note.name.clone(), String::from_utf8_lossy(&note.text).into_owned()))
            .collect();
        notes.sort();
        board.is_heard() && notes.iter().map(|(name, text)| (&**name, &**text)).eq(wanted.iter().copied())
    };
    let waited = tokio::time::timeout(PATIENCE, board.wait_for(known)).await.is_ok();
    assert!(waited, "{wanted:?}, but {:?}", board.borrow());
}

#[tokio::test]
async fn all_know_what_one_writes() {
    let server = Server::start();
    let (one, other) = (store(&server).await, store(&server).await);
    let (mut here, mut there) = (one.notes(), other.notes());
    knows(&mut there, &[]).await;
    let first = one.write_note(&note("a", "x", 0), None).await.unwrap().unwrap();
    one.write_note(&note("b/\u{e4}", "y", 0), None).await.unwrap();
    let started = std::time::Instant::now();
    knows(&mut there, &[("a", "x"), ("b/\u{e4}", "y")]).await;
    println!("known after {:?}", started.elapsed());
    let second = other.write_note(&note("a", "z", 0), None).await.unwrap().unwrap();
    assert!(second > first);
    knows(&mut here, &[("a", "z"), ("b/\u{e4}", "y")]).await;
    // Taken back, it is still known that it was.
    other.write_note(&note("a", "", 0), None).await.unwrap();
    knows(&mut here, &[("a", ""), ("b/\u{e4}", "y")]).await;
    // A stamp is never less than what is asked for, nor than the one before.
    let far = first + 1_000_000_000_000;
    assert_eq!(one.write_note(&note("a", "late", far), None).await.unwrap(), Some(far));
    assert_eq!(one.write_note(&note("a", "later", 0), None).await.unwrap(), Some(far + 1));
}

#[tokio::test]
async fn of_two_who_write_instead_of_a_note_one_does() {
    let server = Server::start();
    let (one, other) = (store(&server).await, store(&server).await);
    let stamp = one.write_note(&note("a", "x", 0), None).await.unwrap();
    let (left, right) = (note("a", "left", 0), note("a", "right", 0));
    let (left, right) = tokio::join!(one.write_note(&left, stamp), other.write_note(&right, stamp));
    assert!(left.unwrap().is_some() != right.unwrap().is_some());
    assert_eq!(one.write_note(&note("b", "x", 0), Some(7)).await.unwrap(), None, "there is none");
}

#[tokio::test]
async fn what_is_merged_is_what_is_later() {
    let server = Server::start();
    let one = store(&server).await;
    let stamp = one.write_note(&note("a", "now", 0), None).await.unwrap().unwrap();
    let merged = [note("a", "before", stamp - 1), note("b", "new", 5), note("c", "", 6)];
    one.merge_notes(&merged).await.unwrap();
    let mut board = one.notes();
    knows(&mut board, &[("a", "now"), ("b", "new"), ("c", "")]).await;
    one.merge_notes(&[note("a", "after", stamp + 1)]).await.unwrap();
    knows(&mut board, &[("a", "after"), ("b", "new"), ("c", "")]).await;
    // What was taken back longer than a day ago goes when something is taken back.
    one.write_note(&note("b", "", 0), None).await.unwrap();
    knows(&mut board, &[("a", "after"), ("b", "")]).await;
}

#[tokio::test]
async fn what_the_store_forgot_is_heard_of() {
    let server = Server::start();
    let one = store(&server).await;
    one.write_note(&note("a", "x", 0), None).await.unwrap();
    let mut board = one.notes();
    knows(&mut board, &[("a", "x")]).await;
    server.command(&["FLUSHALL"]).unwrap();
    knows(&mut board, &[]).await;
}

/// Rows 87 and 111: somebody else's data under our names is left alone, and decisions go on.
#[tokio::test]
async fn foreign_data_at_the_notes_touches_no_decision() {
    let server = Server::start();
    server.command(&["SET", "rl:v1:{10}:notices", "foreign"]).unwrap();
    let one = store(&server).await;
    let limiter = Limiter::new(one);
    let limit = Limit::new("l", "5/day".parse().unwrap());
    assert!(limiter.check(&limit, "ann").await.unwrap().is_allowed());
    assert!(limiter.store().write_note(&note("a", "x", 0), None).await.is_err());
    assert!(limiter.store().is_up());
    assert!(limiter.check(&limit, "ann").await.unwrap().is_allowed());
}

/// A key that is reset somewhere begins anew everywhere: what others hold of it in leases is dropped.
#[tokio::test]
async fn a_reset_drops_what_others_hold() {
    let server = Server::start();
    let (one, other) = (store(&server).await, store(&server).await.leased());
    let limit = Limit::new("l", "2000/min".parse().unwrap());
    let leased = Limiter::new(other.clone());
    let waited = tokio::time::timeout(PATIENCE, async {
        while other.leased_units() == 0 {
            assert!(leased.check(&limit, "ann").await.unwrap().is_allowed());
        }
    });
    waited.await.unwrap();
    let limiter = Limiter::new(one);
    limiter.reset(&limit, "ann").await.unwrap();
    let mut key = KeyBuf::new();
    "ann".encode(&mut key);
    limiter.store().tell_reset(&limit, key.key()).await.unwrap();
    let dropped = tokio::time::timeout(PATIENCE, async {
        while other.leased_units() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    dropped.await.unwrap();
    assert_eq!(leased.peek(&limit, "ann").await.unwrap().remaining(), 2000);
}

/// In a Cluster notes lie in the first partition, and say what becomes of keys in all of them. When their node is lost
/// everybody goes on with what is known; when another has taken over, there is more to know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_97_in_a_cluster_notes_outlive_the_node_they_lie_on() {
    let options = ["--cluster-require-full-coverage", "no"];
    let mut cluster = tokio::task::spawn_blocking(move || Cluster::start_with(1, &options)).await.unwrap();
    let urls = cluster.urls();
    let store = async || {
        let builder = RedisStore::builder(urls[0].clone()).nodes(urls[1..].iter().cloned());
        builder.deadline(Duration::from_secs(1)).connect().await.unwrap()
    };
    let (one, other) = (store().await, store().await.leased());
    let (mut here, mut there) = (one.notes(), other.source().notes());
    one.write_note(&note("a", "x", 0), None).await.unwrap();
    knows(&mut there, &[("a", "x")]).await;

    // A key of another partition begins anew: what is held of it is dropped.
    let limit = Limit::new("l", "2000/min".parse().unwrap());
    let leased = Limiter::new(other.clone());
    let mut key = KeyBuf::new();
    "ann".encode(&mut key);
    let lease = async || {
        while other.leased_units() == 0 {
            assert!(leased.check(&limit, "ann").await.unwrap().is_allowed());
        }
    };
    let reset = async || {
        one.tell_reset(&limit, key.key()).await.unwrap();
        while other.leased_units() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, lease()).await.unwrap();
    tokio::time::timeout(PATIENCE, reset()).await.unwrap();

    // Any name of the first partition.
    let first = "rl:v1:{10}:x";
    let master = cluster.master_of(first);
    // What has not reached the replica when the node dies would be lost.
    cluster.nodes()[master].command(&["WAIT", "1", "10000"]).unwrap();
    cluster.kill(master);
    let written = tokio::time::timeout(PATIENCE, one.write_note(&note("b", "y", 0), None)).await.unwrap();
    assert!(written.is_err(), "{written:?}");
    knows(&mut there, &[("a", "x")]).await;
    let taken_over = tokio::time::timeout(PATIENCE, async {
        while cluster.find_master(first).is_none() || one.write_note(&note("b", "y", 0), None).await.is_err()
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    taken_over.await.unwrap();
    knows(&mut here, &[("a", "x"), ("b", "y")]).await;
    knows(&mut there, &[("a", "x"), ("b", "y")]).await;
    tokio::time::timeout(PATIENCE, lease()).await.unwrap();
    tokio::time::timeout(PATIENCE, reset()).await.unwrap();
}
