"""The blueprint says what Render needs, and nothing that Render or the design forbids."""

import copy
import json
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from shared.settings import ServiceSettings, load_settings

REPOSITORY = Path(__file__).resolve().parents[2]
BLUEPRINT: dict[str, Any] = yaml.safe_load((REPOSITORY / "render.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = {
    service["name"].removeprefix("chartloom-"): service for service in BLUEPRINT["services"]
}
GROUPS: dict[str, list[dict[str, Any]]] = {group["name"]: group["envVars"] for group in BLUEPRINT["envVarGroups"]}
SCHEMA = json.loads((REPOSITORY / "ops" / "render.schema.json").read_text())
HAND_BACK_SECONDS = 10  # releasing leases and flushing traces, after the drain and before SIGKILL

each_service = pytest.mark.parametrize("name", SERVICES)


def variables(name: str) -> dict[str, dict[str, Any]]:
    """A service's environment variables by name, those of its groups included."""
    found = {}
    for variable in SERVICES[name]["envVars"]:
        members = GROUPS[variable["fromGroup"]] if "fromGroup" in variable else [variable]
        found.update({member["key"]: member for member in members})
    return found


def settings_of(name: str) -> type[ServiceSettings]:
    """The settings class of a service: its own where it has one, else the common one."""
    if find_spec(f"services.{name}.settings") is None:
        return ServiceSettings
    members = vars(import_module(f"services.{name}.settings")).values()
    own = [member for member in members if isinstance(member, type) and issubclass(member, ServiceSettings)]
    return next(member for member in own if member.__module__ == f"services.{name}.settings")


def names_of(field: str, about: FieldInfo) -> set[str]:
    """The variables that a field is read from: any of them will do."""
    alias = about.validation_alias
    return {str(name).upper() for name in (alias.choices if isinstance(alias, AliasChoices) else [field])}


def test_it_is_a_blueprint() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(BLUEPRINT, SCHEMA, jsonschema.Draft202012Validator)


def cron_with_a_shutdown_window(service: dict[str, Any]) -> None:
    for field in ("scaling", "preDeployCommand"):
        service.pop(field, None)
    service.update(type="cron", schedule="*/5 * * * *")


MISTAKES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a window longer than Render waits": lambda service: service.update(maxShutdownDelaySeconds=400),
    "no window at all": lambda service: service.update(maxShutdownDelaySeconds=0),
    "a plan as the API spells it": lambda service: service.update(plan="pro_plus"),
    "a free worker": lambda service: service.update(plan="free"),
    "more instances than there can be": lambda service: service["scaling"].update(maxInstances=101),
    "a target that can't be reached": lambda service: service["scaling"].update(targetCPUPercent=95),
    "scaling to no target": lambda service: service["scaling"].pop("targetCPUPercent"),
    "scaling and a fixed number": lambda service: service.update(numInstances=2),
    "half a build filter": lambda service: service["buildFilter"].pop("ignoredPaths"),
    "a deprecated field": lambda service: service.update(autoDeploy=False),
    "a health check that Render does not make": lambda service: service.update(healthCheckPath="/livez"),
    "a number as a value": lambda service: service["envVars"].append({"key": "POOL_SIZE", "value": 4}),
    "a secret that is asked for and given": lambda service: service["envVars"].append(
        {"key": "OPENAI_API_KEY", "value": "key", "sync": False}
    ),
    "a cron job with a shutdown window": cron_with_a_shutdown_window,
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_it_is_found(mistake: str) -> None:
    blueprint = copy.deepcopy(BLUEPRINT)
    (service,) = [service for service in blueprint["services"] if service["name"] == "chartloom-ocr"]
    MISTAKES[mistake](service)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(blueprint, SCHEMA, jsonschema.Draft202012Validator)


def test_a_cron_job_without_a_window_is_none() -> None:
    blueprint = copy.deepcopy(BLUEPRINT)
    service = blueprint["services"][0]
    cron_with_a_shutdown_window(service)
    del service["maxShutdownDelaySeconds"]
    jsonschema.validate(blueprint, SCHEMA, jsonschema.Draft202012Validator)


def test_there_is_one_service_for_each_folder() -> None:
    folders = {path.parent.name for path in REPOSITORY.glob("services/*/pyproject.toml")}
    assert SERVICES.keys() == folders


@each_service
def test_it_is_a_docker_service_deployed_when_checks_pass_and_only_the_console_is_public(name: str) -> None:
    service = SERVICES[name]
    assert (service["type"], service["runtime"]) == ("web" if name == "console" else "worker", "docker")
    assert service["autoDeployTrigger"] == "checksPass"
    assert service["dockerContext"] == "."
    dockerfile = REPOSITORY / service["dockerfilePath"]
    assert dockerfile == REPOSITORY / "services" / name / "Dockerfile"
    assert dockerfile.is_file()


@each_service
def test_a_change_of_its_code_or_of_shared_builds_it_and_of_another_service_does_not(name: str) -> None:
    build_filter = SERVICES[name]["buildFilter"]
    assert {"shared/**", f"services/{name}/**"} <= set(build_filter["paths"])
    assert "ignoredPaths" in build_filter
    assert not any(f"services/{other}/**" in build_filter["paths"] for other in SERVICES if other != name)


@each_service
def test_the_image_copies_only_what_the_build_filter_watches(name: str) -> None:
    dockerfile = (REPOSITORY / "services" / name / "Dockerfile").read_text()
    copies = [line.split() for line in dockerfile.splitlines() if line.startswith("COPY ")]
    sources = {words[1] for words in copies if not words[1].startswith("--from")}
    watched = [path.removesuffix("**") for path in SERVICES[name]["buildFilter"]["paths"]]
    assert sources
    assert all(any(source.startswith(path) for path in watched) for source in sources)


@each_service
def test_it_has_time_to_hand_jobs_back_before_it_is_killed(name: str) -> None:
    drain = int(variables(name)["DRAIN_SECONDS"]["value"])
    assert drain + HAND_BACK_SECONDS <= SERVICES[name]["maxShutdownDelaySeconds"] <= 300


@each_service
def test_it_is_told_what_every_service_needs(name: str) -> None:
    common = {"DATABASE_URL", "LISTEN_DATABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "LOG_LEVEL", "PORT"}
    assert common <= variables(name).keys()


@each_service
def test_its_settings_take_every_value_and_miss_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(name)
    for field, about in settings.model_fields.items():
        for variable_name in names_of(field, about):
            monkeypatch.delenv(variable_name, raising=False)
    for key, variable in variables(name).items():
        monkeypatch.setenv(key, variable.get("value", "given at set-up"))
    loaded = load_settings(settings)  # raises ConfigurationError that names what is missing or refused
    assert loaded.port == 10000


@each_service
def test_every_setting_without_a_default_is_asked_for_or_given(name: str) -> None:
    for field, about in settings_of(name).model_fields.items():
        assert not about.is_required() or names_of(field, about) & variables(name).keys(), field


@each_service
def test_no_secret_is_in_the_file(name: str) -> None:
    secret = ("_URL", "_KEY", "_TOKEN", "_PASSWORD", "_SECRET", "_HEADERS")
    for variable in SERVICES[name]["envVars"]:
        if variable.get("key", "").endswith(secret):
            assert variable == {"key": variable["key"], "sync": False}
    for group in GROUPS.values():
        assert not any(variable["key"].endswith(secret) or "sync" in variable for variable in group)


def test_only_the_ai_service_holds_the_models_key() -> None:
    assert [name for name in SERVICES if "OPENAI_API_KEY" in variables(name)] == ["ai"]


def test_only_the_consoles_users_sign_in_and_never_as_the_local_user() -> None:
    assert [name for name in SERVICES if "SUPABASE_ANON_KEY" in variables(name)] == ["console"]
    assert not any("CONSOLE_DEVELOPMENT_KEY" in variables(name) for name in SERVICES)


def test_migrations_run_before_the_deploy_of_exactly_one_service() -> None:
    migrating = [name for name, service in SERVICES.items() if "preDeployCommand" in service]
    assert migrating == ["sweeper"]
    assert "migrations/**" in SERVICES["sweeper"]["buildFilter"]["paths"]


def test_autoscaling_and_a_fixed_number_of_instances_exclude_each_other() -> None:
    assert all(("scaling" in service) != ("numInstances" in service) for service in SERVICES.values())
