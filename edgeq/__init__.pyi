from .artifacts.record import CalibrationRecord as CalibrationRecord
from .calibration.calibrate import calibrate as calibrate
from .calibration.preflight import preflight as preflight
from .data.images import ImageSet as ImageSet
from .data.preprocess import Preprocess as Preprocess
from .errors import EdgeqError as EdgeqError
from .evaluation.accuracy import evaluate as evaluate
from .evaluation.latency import bench as bench
from .exporters.c.export import export_c as export_c
from .exporters.export import export as export
from .exporters.onnx.place import place_of as place_of
from .exporters.web.export import export_web as export_web
from .frontends.sources import Source as Source
from .frontends.sources import load as load
from .frontends.torch_export.trace import trace as trace
from .packed.file import load_packed as load_packed
from .packed.pack import pack as pack
from .planning.plan import PrecisionPlan as PrecisionPlan
from .planning.plan import plan as plan
from .planning.recipe import Recipe as Recipe
from .quantization.quantize import quantize as quantize
from .quantization.tune import tune as tune
from .runtimes.onnxruntime import onnx_runner as onnx_runner
from .runtimes.torch_native import to_native as to_native

__all__: list[str]
__version__: str
