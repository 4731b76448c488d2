//! A collector of OpenTelemetry.

use crate::config::decode::{Entries, choice, section};
use crate::config::leaf::{Lasting, OrOff, Share, Text};

section! {
    /// Where traces, metrics and lines of the log are sent to as OTLP.
    Otlp {
        /// URL of the collector, such as http://127.0.0.1:4318. Over HTTP, /v1/traces and its like are added to it.
        endpoint: Text [required],
        /// How the collector is spoken to; http if absent.
        protocol: OtlpProtocol,
        /// Fields of HTTP that are sent along, such as the key that a vendor asks for.
        headers: Entries<Text>,
        /// File with the authorities in PEM that the collector is verified by; those of the system if absent.
        ca: Text,
        /// The share of requests that are traced where their caller does not say, from 0 to 1; 0.01 if absent. off: none,
        /// whatever callers say.
        traces: OrOff<Share>,
        /// How often the metrics are sent; 15s if absent. off: never.
        metrics: OrOff<Lasting>,
        /// Whether lines of the log are sent; true if absent. They are written to stderr all the same.
        logs: bool,
        /// What is said of this process with all of it, such as deployment.environment.name; service.name is
        /// ratelimit-proxy if absent.
        attributes: Entries<Text>,
    }
}

choice! {
    /// How the collector is spoken to.
    OtlpProtocol {
        /// Protobuf over HTTP/1.1, port 4318 by custom.
        Http = "http",
        /// gRPC, port 4317 by custom.
        Grpc = "grpc",
    }
}
