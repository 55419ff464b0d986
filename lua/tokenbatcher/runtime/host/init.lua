--- Whose coroutines the tasks are: nginx's light threads inside an nginx worker, our own
-- everywhere else. Chosen once, here. A host is a table of
--
--   task, context   who runs now (our own only); see tasks.guarded
--   waiter()        the running code as something to be woken. It must suspend next: nothing
--                   else ever waits with it
--   owner()         the batcher whose inference function runs, or nil
--   can_suspend()   true, or nil and why not
--   suspend(waiter, what), resume(waiter), answer(waiter)
--   here(), pause(task, what)   the task that runs (nil where tasks are not coroutines of ours); it waits
--   admits()        may records be handed in here? (see check, which says why not)
--   rests(waiter)   will it be woken at the end of this turn without a timer? has_resting()
--   has_ready()     is there a task that could go on at once?
--   start(task)     run task.fn(unpack(task.arguments)), then task.on_end(task, ok, ...)
--   call(fn, ...)   pcall of a function that must not suspend
--   turn(steps, deadline or lateness, is_leaving)   the parts of a turn in this host's order; see loop.lua
--   can_start(is_driven), check(name), refuse(name)   misuse of a place
--   log(level, text)   is there a log of the host? a line in it
--   drive(port)     the loop is there: turn it, if the host does that; see pump.drive in pump/nginx.lua
--   remember_traceback(value, traceback)   an error that is about to be raised again was raised there
--   set_exit_timeout(s)   for a host whose worker exits
--   describe_waiting(), clear()   for run(), which a host that refuses it is not asked for

local ngx = rawget(_G, "ngx")

return require("tokenbatcher.runtime.host." .. (ngx and ngx.get_phase and "nginx" or "own"))
