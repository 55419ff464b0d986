/* transfer.c - one transfer: its options, what comes in, and how it ended.
 */
#include "client.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_ROOM = 4096 };

static const char BODY_EXCESS[] = "the response is larger than allowed";
static const char HEADERS_EXCESS[] = "the headers of the response are larger than 64 KiB";
static const char HEADERS_CUT[] = "the connection ended within the headers of the response";
static const char NO_STATUS[] = "the status line of the response cannot be read";

/* --- what comes in ------------------------------------------------------------ */

static bool append(struct tb__http_bytes *bytes, const char *data, size_t size)
{
    if (bytes->size + size > bytes->room) {
        size_t room = bytes->room ? bytes->room : FIRST_ROOM;
        while (room < bytes->size + size) {
            room *= 2;
        }
        char *grown = realloc(bytes->data, room);
        if (!grown) {
            return false;
        }
        bytes->data = grown;
        bytes->room = room;
    }
    assert(bytes->room - bytes->size >= size);
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
    return true;
}

/* Returning less than was given ends the transfer. */
static size_t keep(struct tb__http_slot *slot, struct tb__http_bytes *bytes, const char *data,
                   size_t size)
{
    assert(bytes->size <= bytes->limit);
    if (size > bytes->limit - bytes->size) {
        slot->excess = bytes->excess;
        return 0;
    }
    if (!append(bytes, data, size)) {
        slot->is_out_of_memory = true;
        return 0;
    }
    return size;
}

static size_t on_body(char *data, size_t unit, size_t size, void *user)
{
    assert(unit == 1); /* as libcurl says */
    (void)unit;
    struct tb__http_slot *slot = user;
    return size ? keep(slot, &slot->body, data, size) : 0;
}

static bool is_blank(const char *data, size_t size)
{
    return size == 0 || data[0] == '\n' || (size == 2 && data[0] == '\r');
}

/* A status line begins the headers of another response: those of a 100 are forgotten. What
 * follows the blank line can only be trailers. */
static size_t on_header(char *data, size_t unit, size_t size, void *user)
{
    (void)unit;
    struct tb__http_slot *slot = user;
    if (size > 5 && memcmp(data, "HTTP/", 5) == 0) {
        slot->headers.size = 0;
        slot->has_headers = false;
        return size;
    }
    if (is_blank(data, size)) {
        slot->has_headers = true;
        return size;
    }
    return keep(slot, &slot->headers, data, size);
}

/* --- options ------------------------------------------------------------------ */

/* "Expect:" spares large bodies the second that libcurl waits for servers that do not
 * answer to it; "Content-Type:" keeps libcurl from calling a body a form, "Accept-Encoding:"
 * from asking for what is only worth it over slow lines. */
static bool list_headers(struct tb__http_slot *slot, const char *headers)
{
    static const char *const defaults[] = {"Expect:", "Content-Type:", "Accept-Encoding:"};
    struct curl_slist *list = NULL;
    char line[TB_HTTP_HEADERS_BYTES + 1];
    while (headers && *headers) {
        size_t size = strcspn(headers, "\n");
        assert(size < sizeof line);
        memcpy(line, headers, size);
        line[size] = '\0';
        list = curl_slist_append(slot->header_list, line);
        if (!list) {
            return false;
        }
        slot->header_list = list;
        headers += size + (headers[size] == '\n');
    }
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++) {
        list = curl_slist_append(slot->header_list, defaults[i]);
        if (!list) {
            return false;
        }
        slot->header_list = list;
    }
    return true;
}

static bool is_http(CURLU *url)
{
    char *scheme;
    if (curl_url_get(url, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK) {
        return false;
    }
    bool is_known = strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0;
    curl_free(scheme);
    return is_known;
}

/* 0, or one of tb_http_refusal. */
static int check_url(const char *text)
{
    CURLU *url = curl_url();
    CURLUcode code = url ? curl_url_set(url, CURLUPART_URL, text, 0) : CURLUE_OUT_OF_MEMORY;
    bool is_good = code == CURLUE_OK && is_http(url);
    curl_url_cleanup(url);
    if (is_good) {
        return 0;
    }
    return code == CURLUE_OUT_OF_MEMORY ? TB_HTTP_EMEMORY : TB_HTTP_EURL;
}

/* The first failure sticks; no option follows it. */
#define SET(option, value) \
    if (code == CURLE_OK) code = curl_easy_setopt(easy, option, value)

static CURLcode set_fixed(struct tb__http_slot *slot)
{
    CURL *easy = slot->easy;
    CURLcode code = CURLE_OK;
    SET(CURLOPT_PRIVATE, slot);
    SET(CURLOPT_ERRORBUFFER, slot->error);
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_QUICK_EXIT, 1L); /* a release does not wait for a name look-up */
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_ACCEPT_ENCODING, "gzip, deflate"); /* what comes so is unpacked */
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, slot);
    SET(CURLOPT_HEADERFUNCTION, on_header);
    SET(CURLOPT_HEADERDATA, slot);
    SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    return code;
}

static CURLcode set_asked(struct tb__http_slot *slot, const tb_http_request *request)
{
    CURL *easy = slot->easy;
    CURLcode code = CURLE_OK;
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_HTTPHEADER, slot->header_list);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)request->connect_timeout_ms);
    SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)request->max_response_bytes);
    if (request->unix_socket) {
        SET(CURLOPT_UNIX_SOCKET_PATH, request->unix_socket);
    }
    if (request->ca_file) {
        SET(CURLOPT_CAINFO, request->ca_file);
    }
    if (request->flags & TB_HTTP_NO_VERIFY) {
        SET(CURLOPT_SSL_VERIFYPEER, 0L);
        SET(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (request->flags & TB_HTTP_POST_METHOD) {
        SET(CURLOPT_POST, 1L);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_size);
        SET(CURLOPT_COPYPOSTFIELDS, request->body_size ? request->body : "");
    }
    return code;
}

/* 0, or one of tb_http_refusal; tb__http_clean() is the caller's either way. */
int tb__http_set_up(struct tb__http_slot *slot, const tb_http_request *request)
{
    assert(slot->state == TB__HTTP_NEW);
    assert(!slot->header_list);
    int refusal = check_url(request->url);
    if (refusal) {
        return refusal;
    }
    if (request->headers && strlen(request->headers) > TB_HTTP_HEADERS_BYTES) {
        return TB_HTTP_EHEADERS;
    }
    slot->body = (struct tb__http_bytes){.limit = (size_t)request->max_response_bytes, .excess = BODY_EXCESS};
    slot->headers = (struct tb__http_bytes){.limit = TB_HTTP_HEADERS_BYTES, .excess = HEADERS_EXCESS};
    if (!list_headers(slot, request->headers)) {
        return TB_HTTP_EMEMORY;
    }
    CURLcode code = set_fixed(slot);
    if (code == CURLE_OK) {
        code = set_asked(slot, request);
    }
    if (code == CURLE_OK) {
        return 0;
    }
    return code == CURLE_OUT_OF_MEMORY ? TB_HTTP_EMEMORY : TB_HTTP_EOPTION;
}

void tb__http_clean(struct tb__http_slot *slot)
{
    assert(slot->easy);
    curl_easy_reset(slot->easy);
    curl_slist_free_all(slot->header_list);
    free(slot->body.data);
    free(slot->headers.data);
    slot->header_list = NULL;
    slot->body = slot->headers = (struct tb__http_bytes){0};
    slot->excess = NULL;
    slot->is_out_of_memory = slot->is_late = slot->has_headers = false;
    slot->deadline_us = 0;
    slot->error[0] = '\0';
}

/* --- how it ended --------------------------------------------------------------- */

static bool was_sent(const struct tb__http_slot *slot)
{
    long sent = 0;
    curl_easy_getinfo(slot->easy, CURLINFO_REQUEST_SIZE, &sent);
    return sent > 0;
}

static long status_of(const struct tb__http_slot *slot)
{
    long status = 0;
    curl_easy_getinfo(slot->easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

/* What is larger than allowed, as a sentence, or NULL. libcurl takes a header line of up to
 * 100 KiB, and calls a longer one a want of memory; what it has of it no callback sees. */
static const char *excess_of(const struct tb__http_slot *slot)
{
    if (slot->excess) {
        return slot->excess;
    }
    if (slot->result == CURLE_FILESIZE_EXCEEDED) {
        return BODY_EXCESS;
    }
    bool is_long_line = slot->result == CURLE_OUT_OF_MEMORY && !slot->has_headers &&
                        !slot->is_out_of_memory && was_sent(slot);
    return is_long_line ? HEADERS_EXCESS : NULL;
}

/* libcurl takes an end within the headers for the end of the response, and a status line
 * like "HTTP/200" for one without a status. NULL: nothing is wrong with it. */
static const char *defect_of(const struct tb__http_slot *slot)
{
    if (slot->result != CURLE_OK) {
        return NULL;
    }
    if (status_of(slot) == 0) {
        return NO_STATUS;
    }
    return slot->has_headers ? NULL : HEADERS_CUT;
}

static enum tb_http_outcome outcome_of(const struct tb__http_slot *slot)
{
    if (excess_of(slot)) {
        return TB_HTTP_TOO_LARGE;
    }
    if (slot->is_out_of_memory) {
        return TB_HTTP_NO_MEMORY;
    }
    if (slot->is_late) {
        return TB_HTTP_TIMEOUT;
    }
    switch (slot->result) {
    case CURLE_OK:
        return defect_of(slot) ? TB_HTTP_BROKEN : TB_HTTP_DONE;
    case CURLE_OUT_OF_MEMORY:
        return TB_HTTP_NO_MEMORY;
    case CURLE_OPERATION_TIMEDOUT: /* libcurl's own is that for connecting */
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_INTERFACE_FAILED:
    case CURLE_PROXY:
        return TB_HTTP_CONNECT;
    default:
        return TB_HTTP_BROKEN;
    }
}

static const char *error_text(const struct tb__http_slot *slot)
{
    const char *excess = excess_of(slot), *defect = defect_of(slot);
    if (excess) {
        return excess;
    }
    if (slot->result == CURLE_OK) {
        return defect ? defect : "";
    }
    if (slot->is_late) {
        return "no whole answer within the timeout";
    }
    if (slot->is_out_of_memory || slot->result == CURLE_OUT_OF_MEMORY) {
        return "out of memory";
    }
    return slot->error[0] ? slot->error : curl_easy_strerror(slot->result);
}

/* libcurl quotes a proxy of the environment as it is, credentials included: from the quote,
 * or the word's beginning, to the last "@". */
static void hide_credentials(char *text)
{
    char *at = strrchr(text, '@');
    if (!at) {
        return;
    }
    *at = '\0';
    char *from = strchr(text, '\'');
    if (!from) {
        from = strrchr(text, ' ');
    }
    *at = '@';
    from = from ? from + 1 : text;
    memmove(from, at, strlen(at) + 1);
}

void tb__http_describe(struct tb__http_slot *slot, tb_http_response *out)
{
    assert(slot->state == TB__HTTP_REPORTED);
    curl_off_t retry_after_s = 0;
    hide_credentials(slot->error);
    curl_easy_getinfo(slot->easy, CURLINFO_RETRY_AFTER, &retry_after_s);
    *out = (tb_http_response){
        .outcome = outcome_of(slot),
        .status = (int32_t)status_of(slot),
        .body = slot->body.data,
        .body_size = slot->body.size,
        .headers = slot->headers.data,
        .headers_size = slot->headers.size,
        .error = error_text(slot),
        .retry_after_s = retry_after_s > 0 ? retry_after_s : 0,
        .was_sent = was_sent(slot),
    };
}
