"""The demo command, with the digits base and an untrained LoRA on it."""

import http.client
import json
import os
import shutil
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from gradio_client import Client
from gradio_client.exceptions import ValidationError
from peft import LoraConfig
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from diffusers_twinflow import TwinFlowPipeline, enable_twinflow, save_twinflow_lora
from diffusers_twinflow.cli import main
from diffusers_twinflow.cli.comparison import Comparison
from diffusers_twinflow.cli.page_guard import GRACE_SECONDS, Listeners
from diffusers_twinflow.configuration import TwinFlowConfigError
from diffusers_twinflow.hub.stock_pipelines import load_stock_pipeline
from diffusers_twinflow.pipelines.bare_base import bare_base
from diffusers_twinflow.schedulers import TwinFlowScheduler
from tests.cli.demo_server import DemoServer
from tests.hub.repositories import FAMILY, repository_config, train_conditioning, write_model

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "base"
PROMPT, SEED, BASE_STEPS, GUIDANCE = "a handwritten seven", 3, 6, 1.2
LABELS = [f"base, {BASE_STEPS} steps", "1 step", "2 steps", "4 steps"]
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def digits_adapter(tmp_path_factory):
    """A LoRA of random weights, with time conditioning, on the digits base."""
    transformer = load_stock_pipeline(FAMILY, DIGITS).transformer
    enable_twinflow(transformer)
    train_conditioning(transformer)
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=FAMILY.lora_target_modules, init_lora_weights=False)
    )
    directory = tmp_path_factory.mktemp("digits") / "lora"
    directory.mkdir()
    config = replace(repository_config("lora", str(DIGITS)), max_sequence_length=1)
    save_twinflow_lora(directory, transformer, config, TwinFlowScheduler())
    return directory


@pytest.fixture(scope="module")
def pipeline(digits_adapter):
    pipeline = TwinFlowPipeline.from_pretrained(digits_adapter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def server(tmp_path_factory, digits_adapter):
    """A running demo; when it is closed no picture stays on the disk."""
    home = tmp_path_factory.mktemp("server")
    server = DemoServer(
        home,
        *("--adapter", digits_adapter, "--device", "cpu", "--prompt", PROMPT, "--seed", 5),
        *("--base_steps", BASE_STEPS, "--base_guidance", GUIDANCE),
    )
    yield server
    assert server.close() == 0 and not list(home.rglob("*.png"))


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, download_files=tmp_path_factory.mktemp("downloads"), verbose=False)


def ask(client, prompt=PROMPT, seed=SEED):
    """What the page shows after each picture: pictures, then times, in the order of its columns."""
    job = client.submit(prompt, seed, api_name="/draw")
    job.result(timeout=120)
    return job.outputs()


def pixels(path) -> bytes:
    return Image.open(path).convert("RGB").tobytes()


def generator():
    return torch.Generator("cpu").manual_seed(SEED)


def drawn_by_hand(pipeline) -> list[bytes]:
    """What the page should show: the stock pipeline's picture, and those of the TwinFlow pipeline."""
    base = StableDiffusion3Pipeline.from_pretrained(DIGITS, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32)
    options = {"num_inference_steps": BASE_STEPS, "guidance_scale": GUIDANCE, "max_sequence_length": 1}
    images = [base(PROMPT, generator=generator(), **options).images[0]]
    images += [pipeline(PROMPT, num_inference_steps=steps, generator=generator()).images[0] for steps in (1, 2, 4)]
    return [image.tobytes() for image in images]


@pytest.mark.slow
def test_the_page_draws_what_the_pipelines_draw(client, pipeline):
    first, *_, last = ask(client)
    pictures = [pixels(path) for path in last[:4]]
    assert pictures == drawn_by_hand(pipeline) and len(set(pictures)) == 4
    assert [path is None for path in first[:4]] == [True, False, True, True], "the fast picture comes first"
    seconds = [float(timing.removesuffix(" s")) for timing in last[4:]]
    assert all(0 < each < 60 for each in seconds) and seconds[0] > seconds[1]


@pytest.mark.slow
def test_a_seed_gives_the_same_pictures_again(client):
    first, again, other = (list(map(pixels, ask(client, seed=seed)[-1][:4])) for seed in (7, 7, 8))
    assert first == again and not set(first) & set(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "seed", "message"),
    [
        ("", 0, "The prompt is empty"),
        (" \n", 0, "The prompt is empty"),
        ("a", -1, "from 0 to 4294967295, but it is -1"),
        ("a", 2**32, "but it is 4294967296"),
        ("a", 1.5, "but it is 1.5"),
        ("a", 1e300, "but it is 1e+300"),
        ("a", None, "but it is None"),
        ("a", "seven", "but it is 'seven'"),
    ],
)
def test_what_is_no_prompt_or_seed_is_told(client, prompt, seed, message):
    with pytest.raises(ValidationError, match=message.replace("+", r"\+")):
        client.predict(prompt, seed, api_name="/draw")


@pytest.mark.slow
def test_a_long_prompt_is_refused_at_once(client):
    with pytest.raises(ValidationError, match="The prompt has 900000 characters. Shorten it to at most 10000"):
        client.predict("a" * 900_000, 0, api_name="/draw")


def post(server, path: str, content: bytes = b"{}", **headers: str) -> tuple[int, str]:
    """Status and text of a POST to the page's server."""
    request = urllib.request.Request(f"{server.url}gradio_api/{path}", content, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def call(server, **headers: str) -> tuple[int, str]:
    data = json.dumps({"data": [PROMPT, SEED]}).encode()
    return post(server, "call/draw", data, **{"Content-Type": "application/json"} | headers)


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_requests_of_other_sites_are_refused(server, origin):
    assert call(server, Origin=origin) == (403, "Requests from other sites are not allowed.")
    assert post(server, "upload", Origin=origin)[0] == 403


@pytest.mark.slow
def test_requests_of_the_page_itself_are_served(server):
    status, answer = call(server, Origin=server.url.rstrip("/"))
    assert status == 200
    event = json.loads(answer)["event_id"]
    with urllib.request.urlopen(f"{server.url}gradio_api/call/draw/{event}", timeout=120) as stream:
        assert "event: complete" in stream.read().decode()


@pytest.mark.slow
def test_uploads_and_large_requests_are_refused(server):
    assert post(server, "upload") == (403, "Uploads are not allowed.")
    connection = http.client.HTTPConnection(server.url.removeprefix("http://").rstrip("/"), timeout=60)
    connection.putrequest("POST", "/gradio_api/call/draw")
    connection.putheader("Content-Length", "1000001")
    connection.endheaders()
    assert connection.getresponse().status == 413


@pytest.mark.slow
def test_a_job_that_nobody_waits_for_is_dropped(server):
    event = json.loads(call(server)[1])["event_id"]
    time.sleep(GRACE_SECONDS + 3)
    with urllib.request.urlopen(f"{server.url}gradio_api/call/draw/{event}", timeout=120) as stream:
        assert "event: error" in stream.read().decode()


def test_jobs_that_came_together_are_dropped_together():
    listeners = Listeners()
    listeners.open["here"] += 1
    listeners.check("here", arrived=-1e9)
    arrived = time.monotonic() - GRACE_SECONDS + 0.2
    started = time.monotonic()
    for _ in range(50):
        with pytest.raises(TwinFlowConfigError, match="nobody waits"):
            listeners.check("gone", arrived)
    assert time.monotonic() - started < 2


def test_a_job_waits_for_its_listener():
    listeners = Listeners()
    threading.Timer(0.3, lambda: listeners.open.update(["late"])).start()
    started = time.monotonic()
    listeners.check("late", started)
    assert time.monotonic() - started > 0.2


@pytest.mark.slow
def test_it_listens_on_this_machine_alone(server):
    assert server.url.startswith("http://127.0.0.1:")
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


def test_drawing_the_base_leaves_no_trace(pipeline, caplog):
    comparison = Comparison(pipeline, [1, 2, 1], BASE_STEPS, base_guidance=GUIDANCE)
    assert comparison.labels == LABELS[:3]
    first, again = (comparison.draw_all(PROMPT, SEED) for _ in range(2))
    assert images_of(first) == images_of(again)
    with pytest.raises(KeyError), bare_base(pipeline) as base:
        assert type(base) is StableDiffusion3Pipeline
        raise KeyError
    assert images_of(comparison.draw_all(PROMPT, SEED)) == images_of(first)
    assert not caplog.records


def images_of(drawn) -> dict[str, bytes]:
    return {label: each.image.tobytes() for label, each in drawn.items()}


@pytest.mark.slow
@pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its driver: apt-get install chromium chromium-driver"
)
def test_in_a_browser(server, tmp_path):
    """The page opens with images; a prompt and a seed give others; an empty prompt shows a message and keeps them."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "window-size=1200,800",
        "headless=new",
        "no-sandbox",
        "disable-dev-shm-usage",
        f"user-data-dir={tmp_path / 'profile'}",
    ):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as browser:
        drive(browser, server.url)
        drive_on_a_phone(browser, server.url)


def drive(browser, url: str) -> None:
    wait = WebDriverWait(browser, 120)
    first = open_page(browser, url, "desktop")
    prompt = browser.find_element(By.TAG_NAME, "textarea")
    seed = browser.find_element(By.CSS_SELECTOR, "input[type=number]")
    assert prompt.get_attribute("value") == PROMPT and seed.get_attribute("value") == "5"
    shown = pictures(browser)
    assert all(each["width"] > 200 and abs(each["width"] - each["height"]) < 1 for each in shown)
    assert [each["x"] for each in shown] == sorted({each["x"] for each in shown}), "in one row, the base on the left"
    text = browser.find_element(By.TAG_NAME, "body").text
    assert all(label in text for label in LABELS)

    seed.send_keys(Keys.BACKSPACE, str(SEED))
    browser.find_element(By.XPATH, "//button[normalize-space()='Generate']").click()
    wait.until(lambda _: len(pictures(browser)) == 4 and not set(addresses(browser)) & set(first))
    wait.until(lambda _: all(times(browser)))
    resources = browser.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
    assert len(resources) > 4 and all(address.startswith(url) for address in resources), "nothing of other hosts"

    drawn = addresses(browser)
    prompt.send_keys(Keys.CONTROL, "a", Keys.NULL, Keys.BACKSPACE, Keys.ENTER)
    wait.until(lambda _: "The prompt is empty" in browser.find_element(By.TAG_NAME, "body").text)
    save_screenshot(browser, "empty_prompt")
    assert addresses(browser) == drawn and len(pictures(browser)) == 4, "the finished images stay"
    badges = [each for each in browser.find_elements(By.CSS_SELECTOR, "#results .error") if each.is_displayed()]
    assert not badges, "no error covers an image"


def drive_on_a_phone(browser, url: str) -> None:
    """Four images are in sight without scrolling."""
    width, height = 390, 844
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    open_page(browser, url, "phone")
    for rect in pictures(browser):
        assert rect["width"] > 150 and rect["x"] + rect["width"] <= width and rect["y"] + rect["height"] <= height
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "nothing to scroll sideways"


def open_page(browser, url: str, name: str) -> list[str]:
    """Load the page; returns the addresses of the images that it opens with."""
    browser.get(url)
    wait = WebDriverWait(browser, 60)
    wait.until(lambda _: [each["size"] for each in pictures(browser)] == [[32, 32]] * 4 and all(times(browser)))
    save_screenshot(browser, name)
    return addresses(browser)


def pictures(browser) -> list[dict]:
    """Address, natural size and place of each image that the browser has loaded, read at one moment."""
    return browser.execute_script(
        "return [...document.querySelectorAll('.picture img')].filter(each => each.complete).map(each => {"
        "const {x, y, width, height} = each.getBoundingClientRect();"
        "return {src: each.src, size: [each.naturalWidth, each.naturalHeight], x, y, width, height}})"
    )


def addresses(browser) -> list[str]:
    return [each["src"] for each in pictures(browser)]


def times(browser) -> list[str]:
    found = browser.execute_script(
        "return [...document.querySelectorAll('.result .block.time')].map(each => each.textContent.trim())"
    )
    return found if len(found) == 4 else [""]


def save_screenshot(browser, name: str) -> None:
    """Keep a screenshot for people to look at, if SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        browser.save_screenshot(str(Path(folder, f"{name}.png")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--adapter", "no/such/place"], "neither a directory nor a Hub id"),
        (["--port", "0"], "--port=0 is not a valid port"),
        (["--port", "65536"], "--port=65536 is not a valid port"),
        (["--host", "203.0.113.1"], "--host=203.0.113.1 cannot be used"),
        (["--base_steps", "0"], "--base_steps=0 is not valid"),
        (["--seed", "-1"], "--seed must be a whole number"),
        ([], "'no/such/base' is neither a directory nor a Hub id"),
    ],
)
def test_errors_come_before_loading(arguments, message, digits_adapter, capsys):
    """Loading would fail with the last message."""
    assert demo(digits_adapter, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_told(digits_adapter, capsys):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert demo(digits_adapter, "--port", str(port)) == 1
    assert f"--port={port} of --host=127.0.0.1 cannot be used" in capsys.readouterr().err


def test_without_gradio_the_extra_is_named(digits_adapter, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert demo(digits_adapter) == 1
    assert "pip install 'diffusers-twinflow[web]'" in capsys.readouterr().err


def test_a_whole_model_has_no_base(tmp_path, base_dir, capsys):
    write_model(tmp_path / "model", base_dir)
    assert demo(tmp_path / "model") == 1
    assert "Use demo with a LoRA" in capsys.readouterr().err


def test_an_adapter_is_needed(capsys):
    assert main(["demo"]) == 1
    assert "--adapter" in capsys.readouterr().err


def demo(adapter, *arguments) -> int:
    return main(["demo", "--adapter", str(adapter), "--base_model", "no/such/base", *arguments])
