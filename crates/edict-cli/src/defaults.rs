//! What is taken where a flag is absent.

use edict_stable_diffusion::GuidanceSettings;

use crate::args::{ModelArgs, SamplerName};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    /// Steps over the full schedule.
    pub(crate) steps: usize,
    /// Share of the schedule that is run where there is a picture.
    pub(crate) strength: f64,
    pub(crate) guidance: GuidanceSettings,
    /// Guidance scales of a sweep.
    pub(crate) guidances: [f64; 4],
    /// Guidance scale of inversions, if it is not that of the generation.
    pub(crate) source_guidance: Option<f64>,
}

impl Defaults {
    /// Strengths of a sweep.
    pub(crate) const STRENGTHS: [f64; 3] = [0.6, 0.8, 1.0];

    const GENERAL: Self = Self {
        steps: 50,
        strength: 0.8,
        guidance: GuidanceSettings { scale: 3.0, interval: None },
        guidances: [1.0, 3.0, 5.0, 7.0],
        source_guidance: None,
    };

    /// Where most edits of the demo model come out right and keep the rest. It decides on the sky at its very noisiest, so
    /// that edits have to begin there; noise that it finds under guidance holds on to the source.
    const DEMO: Self = Self {
        steps: 20,
        strength: 1.0,
        guidance: GuidanceSettings { scale: 2.0, interval: None },
        guidances: [1.0, 2.0, 3.0, 5.0],
        source_guidance: Some(1.0),
    };

    pub(crate) fn of(model: &ModelArgs) -> Self {
        if model.model.is_some() { Self::GENERAL } else { Self::DEMO }
    }

    /// As they are with a sampler: SDEdit over the whole schedule would leave nothing of the picture.
    pub(crate) fn for_sampler(self, sampler: Option<SamplerName>) -> Self {
        match sampler {
            Some(SamplerName::Sdedit) => Self { strength: Self::GENERAL.strength, ..self },
            _ => self,
        }
    }

    /// The guidance of an inversion that is kept for later.
    pub(crate) fn inversion_guidance(self) -> GuidanceSettings {
        GuidanceSettings { scale: self.source_guidance(self.guidance.scale), ..self.guidance }
    }

    /// The guidance scale of an inversion, of which the generation is at `guidance`.
    pub(crate) fn source_guidance(self, guidance: f64) -> f64 {
        self.source_guidance.unwrap_or(guidance)
    }
}
