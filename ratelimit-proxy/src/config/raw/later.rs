//! What the language has and this release does not bring to life. It is read, so that slips of the pen are told;
//! the fields that hold it are marked `[later]` where they stand.

use crate::config::decode::section;
use crate::config::leaf::Text;

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
