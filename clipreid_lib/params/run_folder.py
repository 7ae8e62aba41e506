"""A run's folder as its params see it: which folders are runs', what was asked for, where logs and models lie."""

from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.check import validate_params
from clipreid_lib.params.read import read_yaml
from clipreid_lib.params.run_params import Params


def list_run_folders(outputs: Path) -> list[Path]:
    """Return the folders of all runs in an outputs folder, by name."""
    return sorted(path.parent for path in (outputs / "runs").glob("*/params.yaml"))


def read_params(folder: Path) -> Params:
    """Return the params of the run, or the survey, that lives in a folder.

    Raises:
        UserError: the folder is no run's; the params cannot be read, or are of another version.
    """
    path = folder / "params.yaml"
    if not path.is_file():
        raise UserError(f"{folder}: is no run's folder (it holds no params.yaml); give one of outputs/runs/")
    return validate_params(read_yaml(path), str(path))


def place_inside(params: Params, folder: Path, place: str) -> Path:
    """Return the folder that params call ``place``: in the run's folder, or under the run's id in an absolute one."""
    path = Path(place).expanduser()
    return path / params.run_id if path.is_absolute() else folder / path
