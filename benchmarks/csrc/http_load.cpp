// A load generator for HTTP/1.1 with keep-alive, much cheaper than any server that it is pointed at.
//
// Reads a plan from standard input and writes what came of it to standard output; benchmarks/http_load.py
// makes the one and reads the other, and describes both. One thread, one epoll. Each answer is compared
// with those that the same request had before: every different one is kept, with how often it came, so
// that all answers can be judged and not only a sample.

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <string>
#include <strings.h>
#include <time.h>
#include <unordered_map>
#include <vector>

namespace {

constexpr size_t kMostKinds = 64;     // of different answers to one request; the rest are only counted
constexpr double kGraceSeconds = 10;  // for answers that are still out when the time is over

[[noreturn]] void fail(const std::string& what) {
    fprintf(stderr, "http_load: %s\n", what.c_str());
    exit(1);
}

double monotonic() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec * 1e-9;
}

template <class T> T take(FILE* from) {
    T value;
    if (fread(&value, sizeof value, 1, from) != 1) fail("the plan ends early");
    return value;
}

template <class T> std::vector<T> take_many(FILE* from, size_t count) {
    std::vector<T> values(count);
    if (count && fread(values.data(), sizeof(T), count, from) != count) fail("the plan ends early");
    return values;
}

template <class T> void give(const T& value) { fwrite(&value, sizeof value, 1, stdout); }

template <class T> void give_many(const std::vector<T>& values) {
    fwrite(values.data(), sizeof(T), values.size(), stdout);
}

struct Plan {
    uint16_t port;
    bool open;
    double seconds;
    std::vector<std::string> requests;
    std::vector<uint32_t> order;
    std::vector<double> times;  // when each is due, in seconds from the beginning; open loop only
    uint32_t connections;

    explicit Plan(FILE* from) {
        port = take<uint16_t>(from);
        open = take<uint16_t>(from) != 0;
        connections = take<uint32_t>(from);
        seconds = take<double>(from);
        const auto count = take<uint32_t>(from), length = take<uint32_t>(from);
        for (uint32_t i = 0; i < count; i++) {
            const auto bytes = take_many<char>(from, take<uint32_t>(from));
            requests.emplace_back(bytes.begin(), bytes.end());
        }
        order = take_many<uint32_t>(from, length);
        if (open) times = take_many<double>(from, length);
        for (const auto each : order)
            if (each >= count) fail("the plan's order names a request that it lacks");
    }
};

struct Kind {
    int32_t status;  // -1: answers that were not kept
    uint64_t count = 0;
    std::string answer;  // head and body of the first of its kind
};

struct Outcome {
    std::vector<double> begun, took;
    std::vector<int32_t> status;  // 0: no answer
    std::vector<std::unordered_map<std::string, Kind>> kinds;  // by request, then by status and body
};

struct Connection {
    int fd = -1;
    bool busy = false;
    uint32_t request = 0;
    double since = 0;
    std::string answer;
};

class Generator {
  public:
    explicit Generator(const Plan& plan) : plan_(plan), connections_(plan.connections) {
        outcome_.kinds.resize(plan.requests.size());
        epoll_ = epoll_create1(0);
        timer_ = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u32 = plan.connections;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, timer_, &event);
        for (uint32_t i = 0; i < plan.connections; i++) {
            connect_again(i);
            free_.push_back(i);
        }
    }

    Outcome run() {
        start_ = monotonic();
        const double end = start_ + plan_.seconds;
        std::vector<epoll_event> events(64);
        while (true) {
            send_due(end);
            double now = monotonic();
            const bool sent_all = plan_.open ? next_ == plan_.order.size() : now >= end;
            if (sent_all && free_.size() == connections_.size()) break;
            if (now > end + kGraceSeconds) break;
            const int ready = epoll_wait(epoll_, events.data(), events.size(), 100);
            now = monotonic();
            for (int i = 0; i < ready; i++) {
                const uint32_t which = events[i].data.u32;
                if (which == connections_.size()) {
                    uint64_t expirations;
                    (void)!read(timer_, &expirations, sizeof expirations);
                } else {
                    receive(which, now);
                }
            }
        }
        give_up(end);
        elapsed = monotonic() - start_;
        return std::move(outcome_);
    }

    double elapsed = 0;

  private:
    void connect_again(uint32_t which) {
        Connection& connection = connections_[which];
        if (connection.fd >= 0) close(connection.fd);
        connection.fd = socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_port = htons(plan_.port);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        const int on = 1;
        const timeval patience{5, 0};
        setsockopt(connection.fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        setsockopt(connection.fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
        if (connect(connection.fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
            fail("no connection to port " + std::to_string(plan_.port) + ": " + strerror(errno));
        epoll_event event{};
        event.events = EPOLLIN;
        event.data.u32 = which;
        epoll_ctl(epoll_, EPOLL_CTL_ADD, connection.fd, &event);
    }

    void send_due(double end) {
        while (!free_.empty()) {
            const double now = monotonic();
            double since = now;
            if (plan_.open) {
                if (next_ == plan_.order.size()) return;
                since = start_ + plan_.times[next_];  // waiting for a connection counts too
                if (since > now) return set_timer(since);
            } else if (now >= end) {
                return;
            }
            const uint32_t which = free_.front();
            free_.pop_front();
            Connection& connection = connections_[which];
            connection.request = plan_.order[next_ % plan_.order.size()];
            connection.since = since;
            connection.busy = true;
            connection.answer.clear();
            next_++;
            const std::string& request = plan_.requests[connection.request];
            const auto sent = send(connection.fd, request.data(), request.size(), MSG_NOSIGNAL);
            if (sent != static_cast<ssize_t>(request.size())) lost(which, monotonic());
        }
    }

    void set_timer(double when) {
        itimerspec due{};
        due.it_value.tv_sec = static_cast<time_t>(when);
        due.it_value.tv_nsec = static_cast<long>((when - std::floor(when)) * 1e9);
        timerfd_settime(timer_, TFD_TIMER_ABSTIME, &due, nullptr);
    }

    void receive(uint32_t which, double now) {
        Connection& connection = connections_[which];
        char bytes[65536];
        const auto count = recv(connection.fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (count <= 0 || !connection.busy) return lost(which, now);
        std::string& answer = connection.answer;
        answer.append(bytes, count);
        const auto head = answer.find("\r\n\r\n");
        if (head == std::string::npos) return;
        const long length = content_length(answer, head);
        if (length < 0) return lost(which, now);
        if (answer.size() < head + 4 + length) return;
        const int status = atoi(answer.c_str() + answer.find(' ') + 1);
        finish(which, now, status, answer.substr(head + 4));
    }

    static long content_length(const std::string& answer, size_t head) {
        static const char name[] = "\r\ncontent-length:";
        for (size_t at = answer.find("\r\n"); at < head; at = answer.find("\r\n", at + 2))
            if (strncasecmp(answer.c_str() + at, name, sizeof name - 1) == 0)
                return atol(answer.c_str() + at + sizeof name - 1);
        return -1;  // chunked, which no server here answers with
    }

    void finish(uint32_t which, double now, int status, const std::string& body) {
        const std::string key = std::to_string(status) + ' ' + body;
        Connection& connection = connections_[which];
        outcome_.begun.push_back(connection.since - start_);
        outcome_.took.push_back(now - connection.since);
        outcome_.status.push_back(status);
        auto& kinds = outcome_.kinds[connection.request];
        auto found = kinds.find(key);
        if (found == kinds.end() && kinds.size() < kMostKinds) {
            found = kinds.emplace(key, Kind{status, 0, connection.answer}).first;
        } else if (found == kinds.end()) {
            found = kinds.emplace("rest", Kind{-1, 0, ""}).first;
        }
        found->second.count++;
        connection.busy = false;
        free_.push_back(which);
    }

    // The connection is gone, or what comes is not understood; a request that was out has failed.
    void lost(uint32_t which, double now) {
        const bool busy = connections_[which].busy;
        connect_again(which);
        if (busy) finish(which, now, 0, connections_[which].answer);
    }

    void give_up(double end) {
        for (uint32_t which = 0; which < connections_.size(); which++)
            if (connections_[which].busy) finish(which, end + kGraceSeconds, 0, "");
        for (; plan_.open && next_ < plan_.order.size(); next_++) {
            outcome_.begun.push_back(plan_.times[next_]);
            outcome_.took.push_back(end + kGraceSeconds - start_ - plan_.times[next_]);
            outcome_.status.push_back(0);
            outcome_.kinds[plan_.order[next_]].emplace("0 ", Kind{0, 0, ""}).first->second.count++;
        }
    }

    const Plan& plan_;
    std::vector<Connection> connections_;
    std::deque<uint32_t> free_;
    Outcome outcome_;
    double start_ = 0;
    size_t next_ = 0;
    int epoll_, timer_;
};

double cpu_seconds() {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

}  // namespace

int main() {
    const Plan plan(stdin);
    Generator generator(plan);
    const double cpu_before = cpu_seconds();
    const Outcome outcome = generator.run();
    give(cpu_seconds() - cpu_before);
    give(generator.elapsed);
    give(static_cast<uint64_t>(outcome.begun.size()));
    give_many(outcome.begun);
    give_many(outcome.took);
    give_many(outcome.status);
    for (uint32_t request = 0; request < outcome.kinds.size(); request++) {
        for (const auto& entry : outcome.kinds[request]) {
            const Kind& kind = entry.second;
            give(request);
            give(kind.status);
            give(kind.count);
            give(static_cast<uint32_t>(kind.answer.size()));
            fwrite(kind.answer.data(), 1, kind.answer.size(), stdout);
        }
    }
    return fflush(stdout) == 0 ? 0 : 1;
}
