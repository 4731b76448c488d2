//! For the fuzzer: questions of Envoy's, whatever their bytes, to their answers.

use std::sync::{Arc, LazyLock};

use envoy_types::pb::envoy::service::ratelimit::v3::RateLimitResponse;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use prost::Message as _;
use serde_json::json;

use super::{MOST_DESCRIPTORS, Question, Refused, ask, json as written};
use crate::config::load_str;
use crate::state::Shared;
use crate::store::AnyStore;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::trace::Trace;

const CONFIG: &str = "
upstream: http://127.0.0.1:1
log: {requests: off}
rls: {listen: 127.0.0.1:0, max_override: 1000/s}
limits:
  - {name: user, match: {domain: e, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 3/h}
  - {name: login, match: {domain: e, descriptors: [{path: /login}, {user: '*'}]}, key: descriptor.user, rate: 2/h, algorithm: sliding_window}
  - {name: shadow, match: {domain: e, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 1/h, mode: shadow}
  - {name: gone, match: {domain: d, descriptors: [{user: '*'}]}, key: descriptor.user, rate: 1/h, overrides: [{key: x, deny: true}]}
";

static SHARED: LazyLock<(Arc<Shared>, Arc<WorkerMetrics>)> = LazyLock::new(|| {
    let loaded = load_str(CONFIG, "fuzz.yaml", &|_| None, std::path::Path::new(""));
    let Ok(loaded) = loaded else { panic!("the configuration of the fuzzer") };
    let shared = Arc::new(Shared::new(&loaded.config, AnyStore::default()));
    let metrics = shared.metrics.worker();
    (shared, metrics)
});

fn answer(question: &Question) -> Result<RateLimitResponse, Refused> {
    let (shared, metrics) = &*SHARED;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(ask(shared, metrics, question, None, &mut Trace::default()))
}

/// The question as JSON, where it is made of text and brings no quota along.
fn as_json(question: &Question) -> Option<Vec<u8>> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).ok();
    let mut descriptors = Vec::new();
    for descriptor in &question.descriptors {
        let mut entries = Vec::new();
        for entry in &descriptor.entries {
            entries.push(json!({"key": text(&entry.key)?, "value": text(&entry.value)?}));
        }
        let mut all = json!({"entries": entries, "isNegativeHits": descriptor.is_negative_hits});
        if descriptor.limit.is_some() {
            return None;
        }
        if let (Some(hits), Some(all)) = (descriptor.hits_addend, all.as_object_mut()) {
            all.insert("hitsAddend".to_owned(), hits.to_string().into());
        }
        descriptors.push(all);
    }
    let all = json!({"domain": text(&question.domain)?, "descriptors": descriptors, "hitsAddend": question.hits_addend});
    Some(all.to_string().into_bytes())
}

/// Any bytes as a question over the wire: it comes back from its own encoding and from JSON as it was; it is refused
/// for its form alone; an answer has a status for each descriptor, says no as a whole where one does, and nothing in it
/// breaks a header.
///
/// # Panics
/// When it doesn't.
pub fn question(bytes: &[u8]) {
    let _ = Question::from_json(bytes);
    let Ok(question) = Question::decode(bytes) else { return };
    assert_eq!(Question::decode(&*question.encode_to_vec()).as_ref(), Ok(&question));
    if let Some(text) = as_json(&question) {
        assert_eq!(Question::from_json(&text).as_ref(), Ok(&question));
    }
    let answer = match answer(&question) {
        Err(Refused::NoDomain) => return assert!(question.domain.is_empty()),
        Err(Refused::TooMany) => return assert!(question.descriptors.len() > 16),
        Err(Refused::Quota) => return assert!(question.descriptors.iter().any(|one| one.limit.is_some())),
        Err(refused) => panic!("memory always answers, and it said {refused:?}"),
        Ok(answer) => answer,
    };
    assert!(!question.domain.is_empty() && question.descriptors.len() <= MOST_DESCRIPTORS);
    assert_eq!(answer.statuses.len(), question.descriptors.len());
    let refused = answer.statuses.iter().any(|status| status.code() == Code::OverLimit);
    assert_eq!(written::is_over_limit(&answer), refused, "{answer:?}");
    for header in &answer.response_headers_to_add {
        assert!(!header.key.is_empty() && !header.value.is_empty(), "{header:?}");
        assert!(header.value.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{header:?}");
    }
    assert_eq!(RateLimitResponse::decode(&*answer.encode_to_vec()).as_ref(), Ok(&answer));
    assert!(written::of(&answer).is_object());
}
