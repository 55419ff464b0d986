/* error.c - every refusal by name and sentence, and the names of the reasons. */
#include "core.h"

static const struct {
    int error;
    const char *name, *text;
} ERRORS[] = {
    {TB_OK, "ok", "no error"},
    {TB_ENOMEM, "no_memory", "out of memory"},
    {TB_EOPTION, "bad_option", "no such option, or its value is outside its bounds"},
    {TB_EMINMAX, "bad_option", "min_batch_size is above max_batch_size"},
    {TB_ECOST, "bad_cost", "a cost is a finite number from 0 to 1e12"},
    {TB_ETIMEOUT, "bad_timeout", "a timeout is a number of seconds above 0"},
    {TB_EFULL, "queue_full", "the queue is full"},
    {TB_EOVERSIZE, "oversize", "the record alone exceeds target_batch_cost"},
    {TB_ENOTRUNNING, "not_running", "the batcher is not running"},
    {TB_ERUNNING, "already_running", "the batcher is already running"},
    {TB_ENOENT, "no_such_id", "no such record or batch"},
    {TB_ESTATE, "not_running_record", "the record is not running"},
    {TB_ERECORD, "bad_record", "a priority must be a number, and a key or group below 2^24"},
    {TB_ETOOLARGE, "batch_too_large", "so many records, or so much cost, can never be queued at once"},
};

enum { ERROR_COUNT = sizeof ERRORS / sizeof *ERRORS };

const char *tb_error_name(int error)
{
    for (int i = 0; i < ERROR_COUNT; i++)
        if (ERRORS[i].error == error) return ERRORS[i].name;
    return "unknown";
}

const char *tb_error_text(int error)
{
    for (int i = 0; i < ERROR_COUNT; i++)
        if (ERRORS[i].error == error) return ERRORS[i].text;
    return "unknown error";
}

const char *tb_reason_name(int reason)
{
    static const char *const names[TB_REASONS] = {"full", "timeout", "idle", "drain", "policy"};
    return reason >= 0 && reason < TB_REASONS ? names[reason] : "unknown";
}

int tb_abi(void)
{
    return TB_ABI;
}
