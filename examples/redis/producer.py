# A producer in Python (Debian: python3-redis): python3 producer.py SOCKET
import json, redis, sys, uuid
r = redis.Redis(unix_socket_path=sys.argv[1], decode_responses=True)
me = "{prompts}:r:" + uuid.uuid4().hex
texts = ["What is 2+2?", "Name a river.", "Explain a sewing machine."]
for i, text in enumerate(texts):
    r.xadd("prompts", {"id": i, "record": json.dumps({"text": text}), "cost": len(text) // 4 + 1, "reply_to": me})
left = len(texts)
while left:
    for _, answers in r.xread({me: "0"}, count=100, block=5000):
        for sid, a in answers:
            print(a["id"], a.get("result") or a["error"])
            r.xdel(me, sid)  # handled: it is not read again
            left -= 1
