//! Names of devices, as they are written on a command line.

use std::fmt;
use std::str::FromStr;

use tch::Device;

use crate::error::{Result, TchError};
use crate::shim;

/// Where tensors live and are computed: `cpu` or `cuda:N`.
///
/// ```
/// use edict_tch::DeviceSpec;
///
/// assert_eq!("cuda:1".parse::<DeviceSpec>()?, DeviceSpec::Cuda(1));
/// assert_eq!(DeviceSpec::Cuda(1).to_string(), "cuda:1");
/// # Ok::<(), edict_tch::TchError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum DeviceSpec {
    /// The processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl DeviceSpec {
    /// Opens the device.
    ///
    /// # Errors
    /// [`TchError::CudaNotLoaded`] if libtorch's CUDA libraries cannot be loaded, [`TchError::DeviceUnavailable`] if the machine
    /// has no such GPU.
    pub(crate) fn open(self) -> Result<Device> {
        let Self::Cuda(ordinal) = self else { return Ok(Device::Cpu) };
        shim::load_cuda().map_err(|reason| TchError::CudaNotLoaded { device: self.to_string(), reason })?;
        let found = shim::count_gpus()
            .map_err(|reason| TchError::CudaNotLoaded { device: self.to_string(), reason })?;
        if ordinal >= found {
            return Err(TchError::DeviceUnavailable { device: self.to_string(), found });
        }
        Ok(Device::Cuda(ordinal))
    }
}

impl FromStr for DeviceSpec {
    type Err = TchError;

    fn from_str(name: &str) -> Result<Self> {
        if name == "cpu" {
            return Ok(Self::Cpu);
        }
        let number = name.strip_prefix("cuda:").and_then(|number| number.parse().ok());
        number.map(Self::Cuda).ok_or_else(|| TchError::UnknownDevice { name: name.to_owned() })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}
