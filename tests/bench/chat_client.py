# What one writes by hand: chats from lines {"text": ...}, N at a time over kept connections. python3 chat_client.py PORT N
import asyncio, json, sys

async def work(port, lines):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for line in lines:
        messages = [{"role": "user", "content": json.loads(line)["text"]}]
        body = json.dumps({"model": "m", "messages": messages}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        size = next(int(field[15:]) for field in head.split(b"\r\n") if field.lower().startswith(b"content-length:"))
        answer = json.loads(await reader.readexactly(size))
        print(json.dumps({"result": answer["choices"][0]["message"]["content"]}))
    writer.close()

async def main(port, concurrency):
    await asyncio.gather(*(work(port, sys.stdin) for _ in range(concurrency)))

asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
