//! `LLMGateway.spec.prices`: what models cost before their deployments say otherwise. The price list, changed by the
//! gateway's overlays one after the other. An overlay that cannot be used makes the prices that it would have changed
//! doubtful: deployments then keep the ones that they had.

use std::cell::Cell;

use tollgate_crds::{ConfigMapKeyRef, DecimalText, PriceOverlay, Prices};

use super::input::{Input, Unread};
use super::pricing::{self, Stated};
use super::report::{Report, Subject};
use super::values::Reader;
use crate::catalogue;
use crate::finding::Reason;
use crate::model::ModelSet;
use crate::money::Rate;
use crate::price::{ModelPrice, PriceFile, PriceSheet, PriceTable};

/// One part in a million of the price, in the 10^-18 percent that a decimal is read as.
const PART_PER_MILLION: i128 = 100_000_000_000_000;

const WHOLE: u64 = 1_000_000;

/// Lines of a price file that are reported; further ones are counted.
const LINES_REPORTED: usize = 5;

/// The price list and the overlays of a gateway.
#[derive(Debug)]
pub(super) struct Overlays<'a> {
    list: PriceTable<'a>,
    subject: Option<Subject<'a>>,
    entries: Vec<Entry<'a>>,
}

#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    provider: Option<&'a str>,
    /// `None`: all.
    models: Option<ModelSet>,
    change: Change<'a>,
    /// Some deployment takes a price from it.
    is_used: Cell<bool>,
}

#[derive(Debug)]
enum Change<'a> {
    Stated(Stated<'a>),
    /// Every rate times so many parts per million; and how that is called.
    Factor(u64, String),
    Table(PriceFile),
    /// It cannot be used; its findings say why.
    Broken,
}

/// What a model costs.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// What else is known of it.
    pub model: Option<ModelPrice>,
    /// `None`: no price is known.
    pub sheet: Option<PriceSheet>,
    /// The sheet is not the price list's own.
    pub is_changed: bool,
    /// An overlay that would have changed it cannot be used.
    pub is_doubtful: bool,
}

impl<'a> Overlays<'a> {
    /// `gateway`: whose they are.
    pub fn compile(input: &Input<'a>, gateway: Option<(Subject<'a>, &'a Prices)>, report: &mut Report) -> Overlays<'a> {
        let list = input.prices;
        let Some((subject, Prices { overlays })) = gateway else {
            return Overlays { list, subject: None, entries: Vec::new() };
        };
        let mut all = Overlays { list, subject: Some(subject), entries: Vec::with_capacity(overlays.len()) };
        for (at, overlay) in overlays.iter().enumerate() {
            let entry = entry(overlay, &format!("spec.prices.overlays[{at}]"), input, subject, report);
            if all.entries.iter().any(|other| other.name == entry.name) {
                let message = format!("there is an overlay `{}` already", entry.name);
                report.error(subject, Reason::Duplicate, format!("spec.prices.overlays[{at}].name"), message);
                continue;
            }
            // What it is like is looked up among those before it, when it is used; here only whether it is known.
            if let Change::Stated(Stated { like: Some(like), .. }) = &entry.change
                && all.find_like(like).and_then(|listed| listed.sheet).is_none()
            {
                pricing::report_unknown_like(like, &format!("spec.prices.overlays[{at}].pricing"), subject, report);
                all.entries.push(Entry { change: Change::Broken, ..entry });
                continue;
            }
            all.entries.push(entry);
        }
        all
    }

    /// What a provider's model costs, where its deployment says nothing.
    pub fn find(&self, provider: &str, model: &str) -> Listed {
        self.change(self.known(provider, model), &self.entries, provider, model)
    }

    /// What the price list itself knows of a provider's model.
    pub fn known(&self, provider: &str, model: &str) -> Option<ModelPrice> {
        self.list.find(provider, model, None)
    }

    /// What the price list itself knows of a model of this name, whoever serves it.
    pub fn known_like(&self, name: &str) -> Option<ModelPrice> {
        self.list.find_like(name)
    }

    /// What `like: provider/model` names, with a sheet unless it is doubtful; `None` where nothing is known of it.
    pub fn find_like(&self, like: &str) -> Option<Listed> {
        self.like_among(&self.entries, like)
    }

    fn like_among(&self, entries: &[Entry<'a>], like: &str) -> Option<Listed> {
        if let Some((provider, model)) = like.split_once('/')
            && catalogue::find(provider).is_some()
        {
            let listed = self.change(self.known(provider, model), entries, provider, model);
            if listed.sheet.is_some() || listed.is_doubtful {
                return Some(listed);
            }
        }
        // A key of the list as it stands.
        let price = self.list.find_like(like)?;
        let provider = price.provider.clone();
        Some(self.change(Some(price), entries, &provider, like))
    }

    fn change(&self, model: Option<ModelPrice>, entries: &[Entry<'a>], provider: &str, name: &str) -> Listed {
        let sheet = model.as_ref().map(ModelPrice::sheet);
        let mut listed = Listed { model, sheet, ..Listed::default() };
        for (at, entry) in entries.iter().enumerate() {
            if entry.concerns(provider, name) {
                entry.apply(&mut listed, provider, name, |like| self.like_among(&entries[..at], like));
            }
        }
        listed
    }

    /// Overlays that change no price are mostly misspelled.
    pub fn report_unused(&self, report: &mut Report) {
        let Some(subject) = self.subject else { return };
        for (at, Entry { name, provider, models, change, is_used }) in self.entries.iter().enumerate() {
            if is_used.get() || matches!(change, Change::Broken) {
                continue;
            }
            let of_provider = provider.map(|provider| format!(" of provider `{provider}`")).unwrap_or_default();
            let of_models = if models.is_some() { " with such a model" } else { "" };
            let message = format!("no deployment{of_provider}{of_models} takes its price from overlay `{name}`");
            let field = format!("spec.prices.overlays[{at}]");
            report.warning(subject, Reason::Unreachable, field, message).hint =
                "models are compared with spec.model of deployments; a deployment's own pricing comes before overlays"
                    .to_owned();
        }
    }
}

impl Entry<'_> {
    fn concerns(&self, provider: &str, model: &str) -> bool {
        self.provider.is_none_or(|wanted| wanted == provider)
            && self.models.as_ref().is_none_or(|models| models.contains(model))
    }

    fn apply(&self, listed: &mut Listed, provider: &str, model: &str, like: impl Fn(&str) -> Option<Listed>) {
        let version = format!("overlay {}", self.name);
        match &self.change {
            Change::Broken => {
                listed.is_doubtful = true;
                return;
            }
            Change::Table(file) => {
                let Some(price) = file.table().find(provider, model, None) else { return };
                listed.sheet = Some(price.sheet_of(&version));
                listed.model = Some(price);
            }
            Change::Factor(parts_per_million, words) => {
                let Some(sheet) = &listed.sheet else { return };
                let named = format!("{version} ({words}) over {}", sheet.version());
                match sheet.scaled(&named, *parts_per_million) {
                    Some(scaled) => listed.sheet = Some(scaled),
                    // No real price is that high.
                    None => {
                        listed.is_doubtful = true;
                        return;
                    }
                }
            }
            Change::Stated(stated) => {
                if let Some(base) = stated.like.and_then(like) {
                    listed.is_doubtful |= base.is_doubtful;
                    listed.model = listed.model.take().or(base.model);
                    let Some(sheet) = base.sheet else { return };
                    listed.sheet = Some(sheet);
                }
                let Ok(sheet) = stated.over(listed.sheet.as_ref(), &version) else {
                    listed.is_doubtful = true;
                    return;
                };
                listed.sheet = Some(sheet);
            }
        }
        listed.is_changed = true;
        self.is_used.set(true);
    }
}

fn entry<'a>(
    overlay: &'a PriceOverlay,
    field: &str,
    input: &Input<'a>,
    subject: Subject<'a>,
    report: &mut Report,
) -> Entry<'a> {
    let PriceOverlay { name, provider, models, pricing, discount_percent, surcharge_percent, config_map_ref } = overlay;
    if let Some(provider) = provider
        && catalogue::find(provider).is_none()
    {
        let message = format!("provider `{provider}` is not known");
        report.error(subject, Reason::UnknownProvider, format!("{field}.provider"), message);
    }
    let mut reader = Reader::new(report, subject);
    let stated = [pricing.is_some(), discount_percent.is_some(), surcharge_percent.is_some(), config_map_ref.is_some()];
    let change = match (pricing, discount_percent, surcharge_percent, config_map_ref) {
        _ if stated.iter().filter(|is_set| **is_set).count() != 1 => {
            let message = "exactly one of pricing, discountPercent, surchargePercent, configMapRef must be set";
            reader.exactly_one(field, message);
            None
        }
        (Some(pricing), ..) => {
            let field = format!("{field}.pricing");
            let stated = pricing::read(pricing, &field, &mut reader);
            stated.filter(|stated| stated.is_sound(&field, reader.subject, reader.report)).map(Change::Stated)
        }
        (_, Some(percent), ..) => {
            let parts = percent_of(percent, 100, &format!("{field}.discountPercent"), &mut reader);
            parts.map(|parts| Change::Factor(WHOLE - parts, format!("-{}%", percent.as_str())))
        }
        (_, _, Some(percent), _) => {
            let parts = percent_of(percent, 1000, &format!("{field}.surchargePercent"), &mut reader);
            parts.map(|parts| Change::Factor(WHOLE + parts, format!("+{}%", percent.as_str())))
        }
        (.., config_map) => config_map.as_ref().and_then(|reference| {
            table(reference, &format!("{field}.configMapRef"), input, subject, reader.report).map(Change::Table)
        }),
    };
    Entry {
        name,
        provider: provider.as_deref(),
        models: (!models.is_empty()).then(|| ModelSet::new(models.iter().map(String::as_str))),
        change: change.unwrap_or(Change::Broken),
        is_used: Cell::new(false),
    }
}

/// In parts per million.
fn percent_of(percent: &DecimalText, most: u64, field: &str, reader: &mut Reader<'_, '_>) -> Option<u64> {
    let text = match percent.get() {
        Ok(text) => text,
        Err(error) => {
            reader.invalid(field, error.to_string());
            return None;
        }
    };
    let percent = Rate::parse(text).ok().map(|Rate(atto)| atto);
    let parts = percent
        .filter(|atto| atto % PART_PER_MILLION == 0)
        .and_then(|atto| u64::try_from(atto / PART_PER_MILLION).ok());
    match parts.filter(|parts| *parts <= most * WHOLE / 100) {
        Some(parts) => Some(parts),
        None => {
            reader.invalid(field, format!("`{text}` is not a percentage from 0 to {most} with at most four decimals"));
            None
        }
    }
}

fn table(
    reference: &ConfigMapKeyRef,
    field: &str,
    input: &Input<'_>,
    subject: Subject<'_>,
    report: &mut Report,
) -> Option<PriceFile> {
    let ConfigMapKeyRef { name, key } = reference;
    let Some(entries) = input.config_maps.get(subject.namespace, name) else {
        let (reason, message) = match input.config_maps.unread(subject.namespace, name) {
            Some(Unread::Forbidden) => (Reason::NotFound, format!("ConfigMap `{name}` may not be read")),
            Some(Unread::Failed(why)) => (Reason::NotFound, format!("ConfigMap `{name}` is not read yet: {why}")),
            None => (Reason::NotFound, format!("there is no ConfigMap `{name}` in `{}`", subject.namespace)),
        };
        report.error(subject, reason, field, message);
        return None;
    };
    let Some(text) = entries.get(key) else {
        report.error(subject, Reason::NotFound, field, format!("ConfigMap `{name}` has no entry `{key}`"));
        return None;
    };
    let errors = match PriceFile::read(text) {
        Ok(file) => return Some(file),
        Err(errors) => errors,
    };
    for error in errors.iter().take(LINES_REPORTED) {
        let message = format!("entry `{key}` of ConfigMap `{name}`: {error}");
        report.error(subject, Reason::Malformed, field, message).hint =
            "`tollgate prices show MODEL --output lines` prints a line as it should be".to_owned();
    }
    if errors.len() > LINES_REPORTED {
        let message =
            format!("entry `{key}` of ConfigMap `{name}`: and {} further lines", errors.len() - LINES_REPORTED);
        report.error(subject, Reason::Malformed, field, message);
    }
    None
}
