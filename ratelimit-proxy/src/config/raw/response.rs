//! What clients see, and what the log says.

use ratelimit_core::Rate;

use crate::config::decode::{Either, choice, section};
use crate::config::leaf::{Lasting, OrOff, Share, Text, Whole};

section! {
    /// What a client sees.
    Response {
        /// The status of a denial, 400 to 599; 429 if absent.
        status: Whole<400, 599>,
        /// Which fields tell about limits; ietf if absent.
        headers: HeadersWord,
        /// How x-ratelimit-reset says when; delta if absent.
        reset: ResetWord,
        /// Whether the fields are listed for scripts in browsers; true if absent.
        expose: bool,
        /// The body of a denial; problem if absent.
        body: Either<BodyWord, BodyFile>,
        /// Up to this share is added to Retry-After, from 0 to 1.
        retry_jitter: Share,
    }
}

choice! {
    /// Which fields tell about limits.
    HeadersWord {
        /// RateLimit and RateLimit-Policy.
        Ietf = "ietf",
        /// x-ratelimit-limit, -remaining and -reset.
        Legacy = "legacy",
        /// All of them.
        Both = "both",
        /// None but Retry-After.
        None = "none",
    }
}

choice! {
    /// How x-ratelimit-reset says when.
    ResetWord {
        /// In seconds from now.
        Delta = "delta",
        /// In seconds since 1970.
        Epoch = "epoch",
    }
}

choice! {
    /// The body of a denial.
    BodyWord {
        /// RFC 9457 JSON that names the limits.
        Problem = "problem",
        /// One line.
        Text = "text",
    }
}

section! {
    /// A body of your own.
    BodyFile {
        /// The file, relative to this one; 1 MiB at most.
        file: Text [required],
        /// Its type, such as text/html.
        content_type: Text [required],
    }
}

section! {
    /// What is logged about requests.
    Log {
        /// Which requests; denied if absent.
        requests: RequestsWord,
        /// Most lines in a second, such as 20/s, or off for no bound; 20/s if absent.
        sample: OrOff<Rate>,
        /// How keys are shown; hash if absent.
        keys: KeysWord,
        /// How long what is likely wrong with the configuration has to show before a line says so, or off; 5m if absent.
        doubts: OrOff<Lasting>,
    }
}

choice! {
    /// Which requests are logged.
    RequestsWord {
        /// None.
        Off = "off",
        /// Those that a limit said no to.
        Denied = "denied",
        /// All.
        All = "all",
    }
}

choice! {
    /// How keys are shown in the log.
    KeysWord {
        /// As a hash that is the same within one run.
        Hash = "hash",
        /// As they are, escaped.
        Plain = "plain",
        /// Not at all.
        Off = "off",
    }
}
