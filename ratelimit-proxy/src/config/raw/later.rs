//! What the language has and this release does not bring to life. It is read, so that slips of the pen are told;
//! the fields that hold it are marked `[later]` where they stand.

use std::net::SocketAddr;

use http::HeaderName;
use ratelimit_core::Rate;
use serde_json::{Value, json};

use super::limit::{CostWord, KeyPart};
use super::{Count, Positive};
use crate::config::decode::{At, Decode, Field, Here, Many, choice, section};
use crate::config::fault::Faults;
use crate::config::leaf::{Lasting, Text, Whole};
use crate::config::schema::Shapes;
use crate::config::words::Source;

section! {
    /// Certificate and key of a listener.
    ListenTls {
        /// File with the certificate chain.
        cert: Text,
        /// File with the key.
        key: Text,
        /// File with the authorities whose client certificates are believed.
        client_ca: Text,
    }
}

choice! {
    /// Which server is taken.
    BalanceWord {
        /// The one with the fewest requests under way.
        LeastRequests = "least_requests",
        /// One after the other.
        RoundRobin = "round_robin",
    }
}

section! {
    /// The server that a value of the request decides.
    BalanceHash {
        /// Which value.
        hash: Many<KeyPart> [required],
    }
}

section! {
    /// How a server is found to work.
    HealthCheck {
        /// The path that is asked for.
        path: Text,
        /// How often.
        interval: Lasting,
        /// How long to wait for the answer.
        timeout: Lasting,
    }
}

section! {
    /// Whose tokens are believed.
    Jwt {
        /// Their issuer, whose keys are found by OpenID Connect.
        issuer: Text,
        /// URL of the keys.
        jwks_url: Text,
        /// File with the keys.
        jwks_file: Text,
        /// The variable with the shared secret.
        secret_env: Text,
        /// File with the public key.
        public_key_file: Text,
        /// Whether a token must be bound to the client's certificate.
        bound: bool,
    }
}

section! {
    /// Envoy's rate-limit service.
    Rls {
        /// IP address and port.
        listen: SocketAddr [required],
        /// Certificate and key.
        tls: ListenTls,
        /// Longest a decision may take where the caller does not say.
        deadline: Lasting,
        /// How long a connection lives.
        max_connection_age: Lasting,
        /// The highest quota that a descriptor may bring along.
        max_override: Rate,
    }
}

section! {
    /// A cost that is known only when the response ends.
    LateCost {
        /// What is held at admission.
        reserve: CostWord [later],
        /// What is held where the request does not say.
        default: Count [later],
        /// Where the cost is found in the end.
        actual: Actual [later],
        /// What becomes of the reservation if it is found nowhere.
        if_unknown: IfUnknown [later],
    }
}

section! {
    /// Where a cost is found in the end.
    Actual {
        /// A field of the response.
        response_header: HeaderName,
    }
}

choice! {
    /// What becomes of a reservation whose cost never comes.
    IfUnknown {
        /// It is charged.
        Keep = "keep",
        /// It is given back.
        Refund = "refund",
    }
}

section! {
    /// Which requests use a limit up.
    CountOnly {
        /// Those with such a status: 401, 5xx.
        status: Many<Text>,
        /// Those with such a status of gRPC.
        grpc_status: Many<Whole<0, 16>>,
    }
}

section! {
    /// The quota of a tier.
    Tier {
        /// How much in how long.
        rate: Rate,
        /// Most at once.
        burst: Positive,
        /// Most requests under way at once.
        concurrency: Positive,
        /// No limit for them.
        unlimited: bool,
        /// Nothing for them.
        deny: bool,
    }
}

/// Quotas by what some value of the request says.
#[derive(Debug, Default)]
pub(in crate::config) struct Tiers {
    pub(in crate::config) by: Field<Source>,
    pub(in crate::config) default: Field<Text>,
    pub(in crate::config) tiers: Vec<(At<String>, At<Tier>)>,
}

impl Decode for Tiers {
    fn decode(here: &Here<'_>, faults: &mut Faults) -> Option<Self> {
        let mut tiers = Self::default();
        let Some(fields) = here.fields(faults) else {
            here.wrong("a section", faults);
            return None;
        };
        for (name, place, value) in fields {
            match name {
                "by" => tiers.by.take(&value, faults),
                "default" => tiers.default.take(&value, faults),
                name => tiers.tiers.extend(
                    At::decode(&value, faults).map(|tier| (At { place, value: name.to_owned() }, tier)),
                ),
            }
        }
        if tiers.by.is_absent() {
            faults.refuse(&here.place, "by is missing");
        }
        Some(tiers)
    }

    fn schema(shapes: &mut Shapes) -> Value {
        shapes.shape("Tiers", |shapes| {
            let (by, default) = (Source::schema(shapes), Text::schema(shapes));
            json!({
                "description": "Quotas by what some value of the request says.",
                "type": "object",
                "properties": {"by": by, "default": default},
                "required": ["by"],
                "additionalProperties": Tier::schema(shapes),
            })
        })
    }
}
