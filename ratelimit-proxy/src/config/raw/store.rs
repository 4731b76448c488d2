//! Where counters live.

use super::Positive;
use crate::config::decode::{Either, Many, choice, section};
use crate::config::leaf::{Lasting, Percent, Text};
use crate::config::store::StoreUrl;

choice! {
    /// A store without settings.
    StoreWord {
        /// The memory of this process.
        Memory = "memory",
    }
}

section! {
    /// Where counters live: in memory, or in redis, to which everything else here belongs.
    Store {
        /// In the memory of this process.
        memory: Memory,
        /// In Redis or Valkey, shared by all replicas: a URL such as redis://127.0.0.1:6379, a list of nodes of a
        /// Cluster, or sentinels.
        redis: Many<Either<StoreUrl, Sentinels>>,
        /// Whether every decision is taken in the store, or pieces are taken from it; strict if absent.
        consistency: ConsistencyWord,
        /// How long a piece may last at most, as a part of the time in which a bucket fills: 1% to 50%; 12% if absent.
        /// More saves calls of the store, less leaves more for the other replicas.
        lease_horizon: Percent,
        /// Longest a decision may wait for the store, reconnects included; 50ms if absent.
        deadline: Lasting,
        /// Who decides while the store can't answer; local if absent.
        on_failure: OnFailureWord,
        /// How many replicas share what `local` allows; learnt from the store if absent.
        replicas: Positive,
        /// What keys in the store begin with; rl if absent.
        prefix: Text,
        /// The user to log in as, if the URL names none.
        username: Text,
        /// File with the password, read again for each connection.
        password_file: Text,
        /// Certificates for rediss://.
        tls: StoreTls,
        /// After how long the permits of a replica that is gone come back; 10s if absent, at least 1s.
        permit_expiry: Lasting,
        /// Whether /readyz says no while the store can't be reached; false if absent.
        required_for_ready: bool,
    }
}

section! {
    /// Sentinels that know the master.
    Sentinels {
        /// Their URLs.
        sentinels: Many<StoreUrl> [required],
        /// What they call it.
        master: Text [required],
    }
}

section! {
    /// Certificates for a connection to the store, in files in PEM format, read again for each connection.
    StoreTls {
        /// Authorities to trust; the system's if absent.
        ca: Text,
        /// The certificate that the store is shown.
        cert: Text,
        /// Its key.
        key: Text,
    }
}

choice! {
    /// How close replicas hold together.
    ConsistencyWord {
        /// Every decision is taken in the store.
        Strict = "strict",
        /// Replicas take pieces of quota and spend them by themselves.
        Leased = "leased",
    }
}

choice! {
    /// Who decides while the store can't answer.
    OnFailureWord {
        /// Each replica, within its share.
        Local = "local",
        /// Everything is allowed.
        Allow = "allow",
        /// Everything is refused.
        Deny = "deny",
    }
}

section! {
    /// Room for counters in the memory of this process.
    Memory {
        /// Keys a limit, at least; 1000000 if absent. A key takes 24 bytes, 104 under a sliding window.
        max_keys: Positive,
        /// What happens to keys beyond that.
        overflow: OverflowWord,
    }
}

choice! {
    /// What happens to keys for which there is no room.
    OverflowWord {
        /// Some thousand of them share a counter.
        Share = "share",
        /// They are denied.
        Deny = "deny",
    }
}
