"""The `openai` package against a running server: python openai_client.py URL"""

import asyncio
import sys
import threading
import urllib.request

import openai

URL = sys.argv[1]
MODEL = "tiny"
USER = [{"role": "user", "content": "Blessed are the"}]


def metric(name):
    request = urllib.request.Request(URL + "/metrics", headers={"Authorization": "Bearer secret"})
    for line in urllib.request.urlopen(request).read().decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[-1])
    raise KeyError(name)


def raises(kind, status, call, code=None):
    try:
        call()
    except kind as e:
        assert e.status_code == status and (code is None or e.code == code), (e.status_code, e.code)
        assert isinstance(e.body, dict) and e.body["message"], e.body
        return e
    raise AssertionError(f"no {kind.__name__}")


def chat(client, **extra):
    return client.chat.completions.create(model=MODEL, messages=USER, temperature=0, max_tokens=24, **extra)


def streamed(client, **extra):
    """Text, reason and usage of a streamed chat."""
    text, reason, usage = "", None, None
    for chunk in chat(client, stream=True, stream_options={"include_usage": True}, **extra):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage or usage
    return text, reason, usage


def check_answers(client):
    assert [m.id for m in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "squizd"
    whole = chat(client)
    text, reason, usage = streamed(client)
    assert whole.choices[0].message.role == "assistant"
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (text, reason)
    assert usage.completion_tokens == whole.usage.completion_tokens and usage.total_tokens > 24
    assert whole._request_id == whole.id
    completion = client.completions.create(model=MODEL, prompt="And the", max_tokens=5, temperature=0, logprobs=2)
    assert "".join(completion.choices[0].logprobs.tokens) == completion.choices[0].text
    logged = chat(client, logprobs=True, top_logprobs=3)
    content = logged.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode() == logged.choices[0].message.content
    assert all(len(t.top_logprobs) == 3 and t.logprob <= 0 for t in content)
    middle = text[len(text) // 3 :][:6]
    stopped, reason, _ = streamed(client, stop=[middle])
    assert (stopped, reason) == (text[: text.index(middle)], "stop")
    seeded = [client.completions.create(model=MODEL, prompt="So", seed=3).choices[0].text for _ in range(2)]
    assert seeded[0] == seeded[1]


def check_errors(client):
    create = client.chat.completions.create
    raises(openai.NotFoundError, 404, lambda: create(model="gpt-4o", messages=USER), "model_not_found")
    raises(openai.BadRequestError, 400, lambda: create(model=MODEL, messages=[]))
    e = raises(openai.BadRequestError, 400, lambda: create(model=MODEL, messages=USER, n=2))
    assert e.param == "n"
    long = [{"role": "user", "content": "And so on. " * 200}]
    raises(openai.BadRequestError, 400, lambda: create(model=MODEL, messages=long), "context_length_exceeded")
    stranger = client.with_options(api_key="wrong")
    raises(openai.AuthenticationError, 401, lambda: chat(stranger), "invalid_api_key")
    raises(openai.NotFoundError, 404, lambda: client.embeddings.create(model=MODEL, input="x"))


def check_load(client):
    """Eight clients at once, on three slots: each gets what it gets alone."""
    alone = streamed(client)[:2]
    results, failures = [], []

    def work(i):
        try:
            for _ in range(4):
                if i % 2:
                    results.append(streamed(client)[:2])
                else:
                    choice = chat(client).choices[0]
                    results.append((choice.message.content, choice.finish_reason))
        except Exception as e:
            failures.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not failures, failures
    assert results == [alone] * 32, set(results)


async def check_async():
    async with openai.AsyncOpenAI(base_url=URL + "/v1", api_key="secret") as client:
        async def one():
            stream = await chat(client, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in stream])

        texts = await asyncio.gather(*[one() for _ in range(8)])
        assert len(set(texts)) == 1 and texts[0]


def check_cancel(client):
    before = metric('squizd_generations_total{end="cancelled"}')
    cancelled = 0
    for _ in range(20):
        # The answer may be complete before the client is gone.
        with client.completions.create(model=MODEL, prompt="And", max_tokens=240, stream=True,
                                       extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        while metric("squizd_slots_active") > 0:
            pass
        cancelled = metric('squizd_generations_total{end="cancelled"}') - before
        if cancelled:
            break
    assert cancelled, "no generation was cancelled"


def main():
    client = openai.OpenAI(base_url=URL + "/v1", api_key="secret", max_retries=8)
    check_answers(client)
    check_errors(client)
    check_load(client)
    asyncio.run(check_async())
    check_cancel(client)
    assert metric("squizd_cached_tokens_total") > 0 and metric("squizd_queue_depth") == 0
    print("all checks passed")


main()
