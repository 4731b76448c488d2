//! The scripts, and their digests by which a server knows them.

/// A script as it is sent.
#[derive(Debug)]
pub(crate) struct Script {
    text: String,
    digest: String,
}

impl Script {
    /// Decides batches.
    pub(crate) fn decide() -> Self {
        Self::new(include_str!("scripts/decide.lua"))
    }

    /// Decides batches of nothing but takes from buckets.
    pub(crate) fn takes() -> Self {
        Self::new(include_str!("scripts/takes.lua"))
    }

    /// Counts replicas, and tells whether the server can be written to.
    pub(crate) fn census() -> Self {
        Self::new(include_str!("scripts/census.lua"))
    }

    /// Tells replicas what others said.
    pub(crate) fn notes() -> Self {
        Self::new(include_str!("scripts/notes.lua"))
    }

    fn new(source: &str) -> Self {
        // Comments need not travel, and no server needs to keep them.
        let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
        let text = lines.collect::<Vec<_>>().join("\n");
        let digest = sha1_smol::Sha1::from(&text).digest().to_string();
        Self { text, digest }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }
}
