//! What waypoints are told of the targets of policies, by configurations: which tokens are valid, and how many requests may pass.

use std::collections::BTreeSet;

use tulle_manifest::{Kind, ObjectId, ObjectKey};
use tulle_xds::{Configuration, ConfigurationName, store::Transaction};

use super::{Dirty, Index};
use crate::{authorizers::service, translate};

impl Index {
    /// Which tokens are valid, as a RequestAuthentication says.
    pub(super) fn tokens(&mut self, key: &ObjectKey, transaction: &mut Transaction) {
        let kind = Kind::RequestAuthentication;
        let policy = self.objects.request_authentications().get(key);
        let policy = policy.filter(|_| self.is_in_order(kind, key));
        let sent = policy.map(|policy| translate::tokens(&self.mesh, policy));
        let sent = sent.unwrap_or_default().into_iter();
        let sent = sent.map(|policy| Configuration::Tokens(Box::new(policy)));
        self.configure(kind, key, sent.collect(), transaction);
    }

    /// How many requests may pass, as a RateLimitPolicy says.
    pub(super) fn limits(&mut self, key: &ObjectKey, transaction: &mut Transaction) {
        let kind = Kind::RateLimitPolicy;
        let policy = self.objects.rate_limit_policies().get(key);
        let refused = (!self.is_in_order(kind, key)).then(|| NOT_IN_ORDER.to_owned());
        let sent = policy.map(|policy| {
            translate::limits(&self.mesh, policy, refused, |asked| {
                service(self, &key.namespace, &asked.service, asked.port)
            })
        });
        let sent = sent.unwrap_or_default().into_iter();
        let sent = sent.map(|policy| Configuration::Limits(Box::new(policy)));
        self.configure(kind, key, sent.collect(), transaction);
    }

    /// Services that come and go may be those that count requests.
    pub(super) fn with_limits(&self, dirty: &mut Dirty) {
        if dirty.services.is_empty() && dirty.hosts.is_empty() {
            return;
        }
        let policies = self.objects.rate_limit_policies().iter();
        let asking = policies.filter(|(_, policy)| {
            let mut limits = policy.spec.limits.iter();
            limits.any(|limit| limit.global.is_some())
        });
        let asking = asking.map(|(key, _)| key.clone());
        dirty.rate_limit_policies.extend(asking);
    }

    /// All that is said by a policy, and not what it said before.
    fn configure(
        &mut self,
        kind: Kind,
        key: &ObjectKey,
        sent: Vec<Configuration>,
        transaction: &mut Transaction,
    ) {
        let id = ObjectId {
            kind,
            key: key.clone(),
        };
        let names: BTreeSet<ConfigurationName> = sent.iter().map(Configuration::name).collect();
        let before = match names.is_empty() {
            true => self.configured.remove(&id),
            false => self.configured.insert(id, names.clone()),
        };
        let gone = before.into_iter().flatten();
        let gone = gone.filter(|name| !names.contains(name));
        let gone = gone.map(|name| (name.to_string(), None));
        transaction.configurations.extend(gone);
        let sent = sent
            .into_iter()
            .map(|made| (made.name().to_string(), Some(made)));
        transaction.configurations.extend(sent);
    }
}

/// Its status says more.
const NOT_IN_ORDER: &str = "the policy is not in order";
