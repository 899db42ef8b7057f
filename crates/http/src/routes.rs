//! The routes of a service, compiled, and the one that takes a request.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, uri::Authority};
use tulle_model::{
    http::{self as model, BackendService, Fault, Persistence, Retry},
    token::TokenField,
};

use crate::{
    Text,
    change::{Headers, PathEdit, Redirection},
    claim,
};

/// What routes look at.
#[derive(Clone, Copy)]
pub struct RequestHead<'a> {
    /// The port of the service.
    pub port: u16,
    /// Without the query.
    pub path: &'a str,
    /// Without the `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host, as the client named it.
    pub authority: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// What the request's token says, if it has one that is known to be valid.
    pub token: &'a dyn Fn(&TokenField) -> Vec<&'a str>,
}

/// The routes of a service.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    alternatives: Vec<Alternative>,
    routes: Vec<Arc<Route>>,
}

/// Which route takes a request.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// None is for that port: it goes to the service itself.
    NoRoutes,
    /// There are some, and it fits none.
    None,
    /// This one.
    Route {
        /// The route.
        route: &'a Arc<Route>,
        /// How much of the path it has asked for.
        prefix: usize,
    },
}

#[derive(Clone, Debug)]
struct Alternative {
    route: usize,
    ports: Box<[u16]>,
    path: Option<Text>,
    method: Option<Text>,
    scheme: Option<Text>,
    authority: Option<Text>,
    headers: Box<[Header]>,
    claims: Box<[Claim]>,
    query: Box<[Parameter]>,
}

#[derive(Clone, Debug)]
struct Header {
    name: HeaderName,
    value: Text,
    inverted: bool,
}

#[derive(Clone, Debug)]
struct Claim {
    field: TokenField,
    value: Text,
    inverted: bool,
}

#[derive(Clone, Debug)]
struct Parameter {
    name: Box<str>,
    value: Text,
    inverted: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub struct Route {
    /// Where it is written.
    pub name: Arc<str>,
    /// Where requests go.
    pub action: Action,
    /// Changes of their headers.
    pub request_headers: Headers,
    /// Changes of their responses' headers.
    pub response_headers: Headers,
    /// The host that an endpoint sees.
    pub authority: Option<Authority>,
    /// The path that an endpoint sees.
    pub path: Option<PathEdit>,
    /// See [`model::Rule::timeout`].
    pub timeout: Option<Duration>,
    /// See [`model::Rule::try_timeout`].
    pub try_timeout: Option<Duration>,
    /// See [`model::Rule::try_ends_response`].
    pub try_ends_response: bool,
    /// See [`model::Rule::retry`].
    pub retry: Option<Retry>,
    /// Who gets copies, and of how many of a million requests.
    pub mirrors: Vec<(Backend, u32)>,
    /// What is made to fail.
    pub fault: Fault,
    /// Which pages may call.
    pub cors: Option<Cors>,
    /// What keeps requests of one client with one endpoint.
    pub persistence: Option<Persistence>,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub enum Action {
    /// To the service itself.
    Itself,
    /// To one of these, by weight.
    Backends(Backends),
    /// Back, with the place to ask.
    Redirect(Redirection),
    /// Back, with this.
    Respond(StatusCode, Bytes),
}

/// Some that share requests.
#[derive(Clone, Debug)]
pub struct Backends {
    backends: Vec<Backend>,
    weights: u64,
}

/// Who gets a share.
#[derive(Clone, Debug)]
pub struct Backend {
    weight: u64,
    /// The service; `None`: what it gets is refused.
    pub service: Option<BackendService>,
    /// Changes of headers of its requests.
    pub request_headers: Headers,
    /// And of their responses.
    pub response_headers: Headers,
}

/// Which pages may call.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Vec<Text>,
    /// The other settings.
    pub settings: model::Cors,
}

/// Why routes are of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{route}: {why}")]
pub struct Uncompilable {
    /// Which one.
    pub route: String,
    /// What is wrong with it.
    pub why: String,
}

impl RouteTable {
    /// Compiles them.
    ///
    /// # Errors
    /// [`Uncompilable`]: one that is left out would let the next take its requests.
    pub fn new(routes: &model::Routes) -> Result<Self, Uncompilable> {
        let named = |index: usize| {
            let rule = routes.rules.get(index);
            rule.map_or_else(|| format!("rule {index}"), |rule| rule.name.clone())
        };
        let alternatives = routes.alternatives.iter().map(|alternative| {
            Alternative::new(alternative).map_err(|why| Uncompilable {
                route: named(alternative.rule),
                why,
            })
        });
        let compiled = routes.rules.iter().map(|rule| {
            let route = Route::new(rule).map_err(|why| Uncompilable {
                route: rule.name.clone(),
                why,
            });
            route.map(Arc::new)
        });
        Ok(Self {
            alternatives: alternatives.collect::<Result<_, _>>()?,
            routes: compiled.collect::<Result<_, _>>()?,
        })
    }

    /// Which one takes a request.
    pub fn find(&self, request: &RequestHead<'_>) -> Found<'_> {
        let mut found = Found::NoRoutes;
        for alternative in &self.alternatives {
            if !alternative.is_for(request.port) {
                continue;
            }
            found = Found::None;
            if alternative.fits(request)
                && let Some(route) = self.routes.get(alternative.route)
            {
                let path = alternative.path.as_ref();
                let prefix = path.map_or(0, |path| path.asked(request.path));
                return Found::Route { route, prefix };
            }
        }
        found
    }
}

impl Alternative {
    fn new(alternative: &model::Alternative) -> Result<Self, String> {
        let text = |wanted: &Option<model::StringMatch>| wanted.as_ref().map(Text::new).transpose();
        let claims = alternative.headers.iter().filter_map(|wanted| {
            let field =
                claim(&wanted.name)?.map_err(|error| format!("header {}: {error}", wanted.name));
            Some(field.and_then(|field| {
                Ok(Claim {
                    field,
                    value: Text::new(&wanted.value)?,
                    inverted: wanted.inverted,
                })
            }))
        });
        let headers = alternative.headers.iter();
        let headers = headers.filter(|wanted| claim(&wanted.name).is_none());
        let headers = headers.map(|wanted| {
            let name = HeaderName::try_from(wanted.name.as_str());
            Ok::<_, String>(Header {
                name: name.map_err(|_| format!("header {}: not a name", wanted.name))?,
                value: Text::new(&wanted.value)?,
                inverted: wanted.inverted,
            })
        });
        let query = alternative.query.iter().map(|wanted| {
            Ok::<_, String>(Parameter {
                name: wanted.name.as_str().into(),
                value: Text::new(&wanted.value)?,
                inverted: wanted.inverted,
            })
        });
        Ok(Self {
            route: alternative.rule,
            ports: alternative.ports.as_slice().into(),
            path: text(&alternative.path)?,
            method: text(&alternative.method)?,
            scheme: text(&alternative.scheme)?,
            authority: text(&alternative.authority)?,
            headers: headers.collect::<Result<_, _>>()?,
            claims: claims.collect::<Result<_, String>>()?,
            query: query.collect::<Result<_, _>>()?,
        })
    }

    fn is_for(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn fits(&self, request: &RequestHead<'_>) -> bool {
        let is = |wanted: &Option<Text>, text: &str| {
            let wanted = wanted.as_ref();
            wanted.is_none_or(|wanted| wanted.fits(text.as_bytes()))
        };
        is(&self.path, request.path)
            && is(&self.method, request.method)
            && is(&self.scheme, request.scheme)
            && is(&self.authority, request.authority)
            && self.headers.iter().all(|wanted| wanted.fits(request))
            && self.claims.iter().all(|wanted| wanted.fits(request))
            && self.query.iter().all(|wanted| wanted.fits(request))
    }
}

impl Header {
    /// Of a header that is there more than once, the values are one list.
    fn fits(&self, request: &RequestHead<'_>) -> bool {
        if self.name == http::header::HOST {
            return self.value.fits(request.authority.as_bytes()) != self.inverted;
        }
        let mut values = request.headers.get_all(&self.name).iter();
        let fits = match (values.next(), values.next()) {
            (None, _) => self.inverted && self.value.fits_nothing(),
            (Some(only), None) => self.value.fits(only.as_bytes()),
            (Some(first), Some(second)) => {
                let mut list = first.as_bytes().to_vec();
                for more in std::iter::once(second).chain(values) {
                    list.push(b',');
                    list.extend_from_slice(more.as_bytes());
                }
                self.value.fits(&list)
            }
        };
        fits != self.inverted
    }
}

impl Claim {
    /// Of a claim that is a list, one of its values. Without a valid token there are none.
    fn fits(&self, request: &RequestHead<'_>) -> bool {
        let values = (request.token)(&self.field);
        let fits = values.iter().any(|value| self.value.fits(value.as_bytes()));
        fits != self.inverted
    }
}

impl Parameter {
    /// The first of its name, as it was sent.
    fn fits(&self, request: &RequestHead<'_>) -> bool {
        let pairs = request.query.unwrap_or_default().split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let value = pairs.find_map(|(name, value)| (name == &*self.name).then_some(value));
        let fits = match value {
            Some(value) => self.value.fits(value.as_bytes()),
            None => self.inverted && self.value.fits_nothing(),
        };
        fits != self.inverted
    }
}

impl Route {
    fn new(rule: &model::Rule) -> Result<Self, String> {
        let authority = rule.rewrite.authority.as_deref().map(|host| {
            let authority = Authority::try_from(host);
            authority.map_err(|_| format!("{host} is no host"))
        });
        let mirrors = rule.mirrors.iter();
        let mirrors = mirrors.map(|mirror| Ok((Backend::new(&mirror.backend)?, mirror.share)));
        Ok(Self {
            name: rule.name.as_str().into(),
            action: Action::new(&rule.action)?,
            request_headers: Headers::new(&rule.request_headers)?,
            response_headers: Headers::new(&rule.response_headers)?,
            authority: authority.transpose()?,
            path: rule.rewrite.path.as_ref().map(PathEdit::new).transpose()?,
            timeout: rule.timeout,
            try_timeout: rule.try_timeout,
            try_ends_response: rule.try_ends_response,
            retry: rule.retry.clone(),
            mirrors: mirrors.collect::<Result<_, String>>()?,
            fault: rule.fault.clone(),
            cors: rule.cors.as_ref().map(Cors::new).transpose()?,
            persistence: rule.persistence.clone(),
        })
    }
}

impl Action {
    fn new(action: &model::Action) -> Result<Self, String> {
        Ok(match action {
            model::Action::Forward(backends) if backends.is_empty() => Self::Itself,
            model::Action::Forward(backends) => Self::Backends(Backends::new(backends)?),
            model::Action::Redirect(redirect) => Self::Redirect(Redirection::new(redirect)?),
            model::Action::Respond { status, body } => {
                let status = StatusCode::from_u16(*status);
                let status = status.map_err(|_| "not a status".to_owned())?;
                Self::Respond(status, Bytes::from(body.clone()))
            }
        })
    }
}

impl Backends {
    fn new(backends: &[model::Backend]) -> Result<Self, String> {
        let backends = backends.iter().map(Backend::new);
        let backends = backends.collect::<Result<Vec<_>, _>>()?;
        let weights = backends.iter().map(|backend| backend.weight).sum();
        Ok(Self { backends, weights })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter()
    }

    /// The one that a request goes to; `None` if none of them has any weight. `chance` is from 0 to below 1.
    pub fn choose(&self, chance: f64) -> Option<&Backend> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "weights are of 20 bits, and there are 16 of them"
        )]
        let mut place = (self.weights as f64 * chance) as u64;
        let mut backends = self.backends.iter().filter(|backend| backend.weight > 0);
        backends.find(|backend| match place.checked_sub(backend.weight) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        })
    }
}

impl Backend {
    fn new(backend: &model::Backend) -> Result<Self, String> {
        Ok(Self {
            weight: u64::from(backend.weight),
            service: backend.service.clone(),
            request_headers: Headers::new(&backend.request_headers)?,
            response_headers: Headers::new(&backend.response_headers)?,
        })
    }
}

impl Cors {
    fn new(cors: &model::Cors) -> Result<Self, String> {
        let origins = cors.origins.iter().map(Text::new);
        Ok(Self {
            origins: origins.collect::<Result<_, _>>()?,
            settings: cors.clone(),
        })
    }

    /// Whether a page from there may call.
    pub fn permits(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|wanted| wanted.fits(origin))
    }
}

#[cfg(test)]
mod tests;
