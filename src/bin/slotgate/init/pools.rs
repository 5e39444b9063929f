//! Reads the pools of `pools.yaml` and their accounts.

use super::fields::{Field, Reader, joined};
use super::plan::{Account, Layout, Match, Pool, Upstream};
use super::rules;
use crate::words::quoted;
use std::collections::BTreeSet;

impl Reader {
    pub fn pools(
        &mut self,
        field: &Field<'_>,
        layout: Layout,
        usual: Option<&Upstream>,
        with_app: bool,
    ) -> Vec<Pool> {
        let items = self.list(field);
        let last = items.len().saturating_sub(1);
        let mut pools: Vec<Pool> = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let Some(mut fields) = self.fields(item.node, &item.path) else {
                continue;
            };
            let name_field = self.required(&mut fields, "name");
            let name = name_field
                .as_ref()
                .and_then(|field| self.value(field, rules::name));
            if let (Some(name), Some(field)) = (&name, &name_field) {
                if pools.iter().any(|pool| pool.name == *name) {
                    self.mistake(
                        field.node.place,
                        &field.path,
                        format!("{} is there twice", quoted(name)),
                    );
                }
                if with_app && name == "app" {
                    let problem = "is the name of the application's own pool";
                    self.mistake(field.node.place, &field.path, problem);
                }
            }
            let revision = self.optional(&mut fields, "revision", |text| {
                rules::whole(text, 1, 9_007_199_254_740_991)
            });
            let matches = fields.take("match");
            if matches.is_none() && index != last {
                let path = joined(&item.path, "match");
                self.mistake(
                    item.node.place,
                    &path,
                    "is required: without one a pool takes all that is left, so only the last may",
                );
            }
            let matches = matches.and_then(|field| self.matches(&field));
            let own = fields.take("upstream");
            let own = own.map(|field| self.upstream_or_any(&field));
            let accounts = self.required(&mut fields, "accounts");
            let upstream = own.as_ref().or(usual);
            let accounts = match accounts {
                Some(field) => self.accounts(&field, layout, upstream, name.as_deref()),
                None => Vec::new(),
            };
            self.end(fields);
            pools.push(Pool {
                name: name.unwrap_or_default(),
                revision: revision.unwrap_or(1),
                matches,
                accounts,
            });
        }
        pools
    }

    fn matches(&mut self, field: &Field<'_>) -> Option<Match> {
        let mut fields = self.fields(field.node, &field.path)?;
        let header = self.required(&mut fields, "header");
        let header = header.and_then(|field| self.value(&field, rules::header));
        let mut found = Vec::new();
        for kind in ["exact", "prefix", "suffix"] {
            if let Some(text) = self.optional(&mut fields, kind, rules::printable) {
                found.push((kind, text));
            }
        }
        let place = fields.place;
        self.end(fields);
        if found.len() != 1 {
            self.mistake(
                place,
                &field.path,
                "needs one of `exact`, `prefix`, `suffix`",
            );
        }
        let (kind, text) = found.pop()?;
        Some(Match {
            header: header?,
            kind,
            text,
        })
    }

    fn accounts(
        &mut self,
        field: &Field<'_>,
        layout: Layout,
        usual: Option<&Upstream>,
        pool: Option<&str>,
    ) -> Vec<Account> {
        let mut accounts: Vec<Account> = Vec::new();
        let mut ids: BTreeSet<String> = BTreeSet::new();
        let items = self.list(field);
        for item in &items {
            let Some(mut fields) = self.fields(item.node, &item.path) else {
                continue;
            };
            let id_field = self.required(&mut fields, "id");
            let id = id_field
                .as_ref()
                .and_then(|field| self.value(field, rules::name));
            if let (Some(id), Some(field)) = (&id, &id_field)
                && !ids.insert(id.clone())
            {
                let problem = format!("{} is there twice", quoted(id));
                self.mistake(field.node.place, &field.path, problem);
            }
            let limit = self.required(&mut fields, "limit");
            let limit = limit.and_then(|field| self.value(&field, rules::limit));
            let priority = self.optional(&mut fields, "priority", |text| {
                rules::whole(text, 0, 1_000_000)
            });
            let key_field = fields.take("key_env");
            let key_env = key_field
                .as_ref()
                .and_then(|field| self.value(field, rules::variable));
            if let (Some(variable), Some(field)) = (&key_env, &key_field) {
                let this = format!("{}/{}", pool.unwrap_or("?"), id.as_deref().unwrap_or("?"));
                if let Some(other) = self.keys.insert(variable.clone(), this) {
                    let problem = format!(
                        "{variable} is the key of {other} as well: its limit would count twice"
                    );
                    self.mistake(field.node.place, &field.path, problem);
                }
            }
            let own_field = fields.take("upstream");
            let own = own_field.as_ref().and_then(|field| self.upstream(field));
            if let (Layout::OneHost, Some(field)) = (layout, &own_field) {
                let problem = "one-host has one host for all accounts of a pool; `layout: cluster-per-account` has one for each";
                self.mistake(field.node.place, &field.path, problem);
            }
            if own_field.is_none() && usual.is_none() {
                let path = joined(&item.path, "upstream");
                let problem = "is required, for neither the pool nor the file has one: https://host, or http://host:port";
                self.mistake(item.node.place, &path, problem);
            }
            let place = fields.place;
            if key_field.is_none() && layout == Layout::OneHost && items.len() > 1 {
                let path = joined(&item.path, "key_env");
                let problem = "is required: accounts of one host differ by nothing but their keys";
                self.mistake(place, &path, problem);
            }
            self.end(fields);
            let upstream = own.or_else(|| usual.cloned());
            let is_cluster = matches!(upstream, Some(Upstream::Cluster(_)));
            if layout == Layout::Sidecar && key_env.is_some() && is_cluster {
                let path = joined(&item.path, "key_env");
                let problem = "is put on by the account's cluster, so that must be made here: https://host, or http://host:port";
                self.mistake(place, &path, problem);
            }
            accounts.push(Account {
                id: id.unwrap_or_default(),
                limit: limit.unwrap_or(1),
                priority,
                key_env,
                upstream: upstream.unwrap_or_else(|| Upstream::Cluster(String::new())),
            });
        }
        accounts
    }
}
