//! Who may do what. A page of another site must not read this one through the visitor's browser (DNS rebinding), so a
//! listener on loopback answers to loopback's names only; nor may it change anything, so what it sends is told by its
//! origin. From elsewhere than loopback nothing is changed, and no client's key is shown, without the token.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};

use super::reply::{Answer, refusal};
use crate::config::AdminToken;
use crate::steer::By;

/// What a listener asks of those who connect.
#[derive(Debug)]
pub(super) struct Guard {
    loopback: bool,
    token: Option<AdminToken>,
}

impl Guard {
    /// For a listener there.
    pub(super) fn new(address: SocketAddr, token: Option<AdminToken>) -> Self {
        Self { loopback: address.ip().to_canonical().is_loopback(), token }
    }

    /// Whether the listener is answering to that name.
    pub(super) fn answers_to(&self, uri: &Uri, headers: &HeaderMap) -> Answer<()> {
        if !self.loopback || names_loopback(uri, headers) {
            return Ok(());
        }
        let detail = "this listener is on loopback and answers to localhost only";
        Err(refusal(StatusCode::MISDIRECTED_REQUEST, detail))
    }

    /// Whether whoever sent those fields may change something.
    pub(super) fn may_change(&self, headers: &HeaderMap, peer: SocketAddr) -> Answer<By> {
        if comes_from_another_site(headers) {
            return Err(refusal(StatusCode::FORBIDDEN, "pages of other sites change nothing here"));
        }
        match &self.token {
            None if self.loopback => Ok(By { peer, token: false }),
            None => {
                let detail = "a listener that is not on loopback changes nothing without a token: name one in \
                              admin.token_env";
                Err(refusal(StatusCode::FORBIDDEN, detail))
            }
            Some(token) => shown(token, headers).map(|()| By { peer, token: true }),
        }
    }

    /// Whether whoever sent those fields may have something decided, which is no change that needs a token.
    pub(super) fn may_ask(&self, headers: &HeaderMap) -> Answer<()> {
        if comes_from_another_site(headers) {
            return Err(refusal(StatusCode::FORBIDDEN, "pages of other sites ask nothing here"));
        }
        Ok(())
    }

    /// Whether whoever sent those fields may see what clients' keys are.
    pub(super) fn may_see_keys(&self, headers: &HeaderMap, peer: SocketAddr) -> Answer<()> {
        if self.loopback { Ok(()) } else { self.may_change(headers, peer).map(drop) }
    }
}

/// Whether the token was shown.
fn shown(token: &AdminToken, headers: &HeaderMap) -> Answer<()> {
    let mut said = headers.get_all(header::AUTHORIZATION).iter();
    let bearer = match (said.next(), said.next()) {
        (Some(one), None) => {
            one.as_bytes().split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
        }
        _ => None,
    };
    let detail = match bearer {
        Some((_, said)) if token.is(said.trim_ascii()) => return Ok(()),
        Some(_) => "the token is another one",
        None => "this needs the token: Authorization: Bearer TOKEN",
    };
    let mut reply = refusal(StatusCode::UNAUTHORIZED, detail);
    let challenge = HeaderValue::from_static("Bearer realm=\"ratelimit-proxy administration\"");
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    Err(reply)
}

/// Whether a browser sent it for a page that did not come from here. Programs name no origin.
fn comes_from_another_site(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| !matches!(site, b"same-origin" | b"none")) {
        return true;
    }
    let Some(origin) = headers.get(header::ORIGIN).map(HeaderValue::as_bytes) else { return false };
    let own = headers.get(header::HOST).map(HeaderValue::as_bytes);
    // Behind a proxy with TLS the page came over https.
    let host = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    own.is_none() || host != own
}

/// Whether a request names the host as loopback; HTTP/1.0 may name none, which no browser does.
fn names_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (None, _) => return uri.authority().is_none(),
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let loopback = |authority: &Authority| {
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    };
    named.as_ref().is_some_and(loopback) && uri.authority().is_none_or(loopback)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn names<B>(request: &Request<B>) -> bool {
        names_loopback(request.uri(), request.headers())
    }

    #[test]
    fn only_loopbacks_own_names_are_answered_on_loopback() {
        let request = |host: &str| Request::builder().header("host", host).body(()).unwrap();
        for host in
            ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "127.1.2.3", "[::1]:9090", "[::ffff:127.0.0.1]"]
        {
            assert!(names(&request(host)), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example", "", "[::2]"]
        {
            assert!(!names(&request(host)), "{host}");
        }
        let two = Request::builder().header("host", "localhost").header("host", "evil").body(()).unwrap();
        assert!(!names(&two));
        let absolute = Request::builder().uri("http://evil/").header("host", "localhost").body(()).unwrap();
        assert!(!names(&absolute));
        assert!(names(&Request::new(())));
    }

    #[test]
    fn nothing_is_changed_from_elsewhere_without_the_token() {
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        let guard = |address: [u8; 4], token: &str| Guard::new((address, 1).into(), AdminToken::new(token));
        let (near, far) = ([127, 0, 0, 1], [0, 0, 0, 0]);
        for (address, token, fields, status) in [
            (near, "", &[][..], 200),
            (far, "", &[], 403),
            (far, "", &[("authorization", "Bearer ")], 403),
            (near, "secret", &[], 401),
            (far, "secret", &[], 401),
            (far, "secret", &[("authorization", "Bearer secret")], 200),
            (far, "secret", &[("authorization", "bEARER  secret ")], 200),
            (far, "secret", &[("authorization", "Bearer Secret")], 401),
            (far, "secret", &[("authorization", "Bearer secret1")], 401),
            (far, "secret", &[("authorization", "Bearer ")], 401),
            (far, "secret", &[("authorization", "Basic secret")], 401),
            (far, "secret", &[("authorization", "Bearer secret"), ("authorization", "Bearer x")], 401),
            (near, "", &[("host", "localhost:1"), ("origin", "http://localhost:1")], 200),
            (near, "", &[("host", "localhost:1"), ("origin", "https://localhost:1")], 200),
            (near, "", &[("host", "localhost:1"), ("origin", "http://localhost:2")], 403),
            (near, "", &[("host", "localhost:1"), ("origin", "null")], 403),
            (near, "", &[("origin", "http://localhost")], 403),
            (near, "", &[("sec-fetch-site", "cross-site")], 403),
            (near, "", &[("sec-fetch-site", "same-origin")], 200),
            (
                far,
                "secret",
                &[("authorization", "Bearer secret"), ("host", "a"), ("origin", "http://b")],
                403,
            ),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            let said = guard(address, token).may_change(&headers, peer);
            assert_eq!(said.map_or_else(|reply| reply.status().as_u16(), |_| 200), status, "{fields:?}");
        }
        assert!(guard(near, "secret").may_see_keys(&HeaderMap::new(), peer).is_ok());
        assert!(guard(far, "secret").may_see_keys(&HeaderMap::new(), peer).is_err());
        assert!(!format!("{:?}", guard(far, "secret")).contains("secret"));
    }
}
