/* main.c - the command-line host: opens LuaJIT with our modules and cjson built in,
 * and hands over to lua/tokenbatcher/cli.
 *
 * THE ROOM. src/host makes build/tokenbatcher: what a process does that a library must not
 * (signals, standard descriptors, exit codes), given to the command line's Lua modules as
 * `tokenbatcher.process`. It knows LuaJIT, src/script's state.h and the driver's public
 * header; nobody knows it. embed.lua and man.lua are build steps.
 *
 * Order: sync main
 *
 * THE SPECIAL PROBLEM OF THE THIRD SIGNAL. Signals become events of the loop: the first SIGINT or
 * SIGTERM drains, the second stops at once. But a script's function may never return to the loop. So what
 * a third one does is decided here, in the handler: it ends the process. */
#include "state.h"
#include "sync.h"
#include "tokenbatcher_ev.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lua.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 2, EXIT_SIGNAL = 128 };

/* --- signals ------------------------------------------------------------- */

/* Another signal within this time from the same process counts as the same: timeout(1)
 * sends each signal twice, to the process and to its group. */
enum { SAME_SIGNAL_US = 100000 };

/* For the loop: to drain, to stop at once. */
enum { SIGNALS_OF_THE_LOOP = 2 };

static volatile sig_atomic_t end_signals, end_signals_allowed;
static int64_t end_seen_us;
static pid_t end_sender;
static void (*loop_handler)(int); /* set before on_end_signal() is */

static _Noreturn void abort_run(int signum)
{
    static const char text[] = "tokenbatcher: one signal more: aborted\n";
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(EXIT_SIGNAL + signum);
}

static void on_end_signal(int signum, siginfo_t *info, void *context)
{
    (void)context;
    int kept_errno = errno;
    int64_t now = tb_ev_now();
    bool is_sent = info->si_code == SI_USER; /* and not typed at a terminal */
    bool is_same = is_sent && info->si_pid == end_sender && now - end_seen_us <= SAME_SIGNAL_US;
    if (!is_same || end_signals == 0) {
        if (end_signals >= end_signals_allowed) {
            abort_run(signum);
        }
        end_signals++;
        end_seen_us = now;
        end_sender = is_sent ? info->si_pid : 0;
        loop_handler(signum);
    }
    errno = kept_errno;
}

static const int END_SIGNALS[] = {SIGINT, SIGTERM};
enum { END_SIGNAL_COUNT = sizeof END_SIGNALS / sizeof *END_SIGNALS };

static void handle_end_signal(int signum, struct sigaction *action)
{
    assert(signum == SIGINT || signum == SIGTERM);
    assert(action->sa_sigaction != on_end_signal); /* or it would call itself */
    loop_handler = action->sa_handler;
    action->sa_sigaction = on_end_signal;
    action->sa_flags |= SA_SIGINFO;
    sigaddset(&action->sa_mask, SIGINT);
    sigaddset(&action->sa_mask, SIGTERM);
    sigaction(signum, action, NULL);
}

/* Put our handler before the loop's, which must be installed already. */
static int process_count_end_signals(lua_State *L)
{
    end_signals_allowed = SIGNALS_OF_THE_LOOP;
    for (size_t i = 0; i < END_SIGNAL_COUNT; i++) {
        struct sigaction action;
        if (sigaction(END_SIGNALS[i], NULL, &action) != 0) {
            return luaL_error(L, "cannot read the action of signal %d", END_SIGNALS[i]);
        }
        handle_end_signal(END_SIGNALS[i], &action);
    }
    return 0;
}

static void mask_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(how, &set, NULL);
}

/* All is done. The loop will restore the default actions, but no signal ends the process
 * now, in the midst of its leaving: they wait for process_leave(). */
static int process_prepare_to_leave(lua_State *L)
{
    (void)L;
    mask_signals(SIG_BLOCK);
    return 0;
}

static void do_nothing(int signum)
{
    (void)signum;
}

/* The loop is gone: a first signal has nothing to end any more, the next one aborts. */
static int process_leave(lua_State *L)
{
    end_signals_allowed = end_signals > 0 ? end_signals : 1;
    (void)L;
    for (size_t i = 0; i < END_SIGNAL_COUNT; i++) {
        struct sigaction action = {.sa_handler = do_nothing};
        sigemptyset(&action.sa_mask);
        handle_end_signal(END_SIGNALS[i], &action);
    }
    signal(SIGHUP, SIG_IGN);
    mask_signals(SIG_UNBLOCK);
    return 0;
}

/* --- the disk ------------------------------------------------------------- */

/* sync(fd): begin to write it to its disk. False where that is being done already for one, or fails. */
static int process_sync(lua_State *L)
{
    lua_pushboolean(L, tb__sync_begin((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* sync_problem(): what the disk has said since it was asked last, or nil. */
static int process_sync_problem(lua_State *L)
{
    int error = tb__sync_error();
    if (error) {
        lua_pushstring(L, strerror(error));
    } else {
        lua_pushnil(L);
    }
    return 1;
}

static const luaL_Reg process_functions[] = {
    {"count_end_signals", process_count_end_signals},
    {"sync", process_sync},
    {"sync_problem", process_sync_problem},
    {"prepare_to_leave", process_prepare_to_leave},
    {"leave", process_leave},
    {NULL, NULL},
};

/* --- modules ------------------------------------------------------------- */

static void add_process_module(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaded");
    lua_newtable(L);
    luaL_register(L, NULL, process_functions);
    lua_setfield(L, -2, "tokenbatcher.process");
    lua_pop(L, 2);
}

/* --- main ---------------------------------------------------------------- */

static int add_traceback(lua_State *L)
{
    if (!lua_isstring(L, 1) && !luaL_callmeta(L, 1, "__tostring")) {
        return 1;
    }
    luaL_traceback(L, L, lua_tostring(L, -1), 1);
    return 1;
}

static int run(lua_State *L)
{
    int argc = (int)lua_tointeger(L, 1);
    char **argv = lua_touserdata(L, 2);
    assert(argc >= 0 && argv);
    tb__state_open(L);
    add_process_module(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tokenbatcher.cli");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "main");
    lua_createtable(L, argc, 0);
    for (int i = 1; i < argc; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i);
    }
    lua_call(L, 1, 1);
    assert(lua_isnumber(L, -1)); /* the exit code */
    return 1;
}

/* The next file opened would take the place of a standard descriptor that is closed,
 * and answers would be written into it. A stand-in makes reads and writes fail. */
static void fill_standard_descriptors(void)
{
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", modes[fd]) != fd) {
            _exit(EXIT_USAGE);
        }
    }
}

int main(int argc, char **argv)
{
    fill_standard_descriptors();
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is told of by write(2), as a full disk is */
    lua_State *L = luaL_newstate();
    if (!L) {
        fputs("tokenbatcher: out of memory\n", stderr);
        return EXIT_USAGE;
    }
    lua_pushcfunction(L, add_traceback);
    lua_pushcfunction(L, run);
    lua_pushinteger(L, argc);
    lua_pushlightuserdata(L, argv);
    int status = EXIT_USAGE;
    if (lua_pcall(L, 2, 1, 1)) {
        const char *text = lua_tostring(L, -1);
        fprintf(stderr, "tokenbatcher: %s\n", text ? text : "(an error that is not a string)");
    } else {
        status = (int)lua_tointeger(L, -1);
    }
    lua_close(L);
    if (fflush(stdout) != 0 && status != EXIT_USAGE) {
        fprintf(stderr, "tokenbatcher: cannot write to standard output: %s\n", strerror(errno));
        status = EXIT_USAGE;
    }
    return status;
}
