"""The live page: it generates images without end while you change the settings. In the order to read it:

    engine      one thread that generates the frames of all viewers, in batches
    frames      which frame comes next, the samplers as coroutines, and the binary format of frames
    network     the fastest way to run a network, and one network call for many requests
    settings    the JSON messages from the page, and their validation
    catalog     the models that a server offers, each loaded on first use
    access      the address of a server, and which hosts, origins and clients it answers
    seats       how many viewers can be connected, and who makes room
    timeouts    time limits for HTTP requests
    server      page and engine behind HTTP and a WebSocket
    site        the page as a folder of static files; the models then run in the browser
    page/       the page itself: HTML, CSS and JavaScript, including the engine that runs in the browser

The engine takes settings from many viewers, and its thread makes their frames. A frame is a coroutine: whenever its
sampler calls the denoiser, it yields a request and waits for x̂₀. The engine batches the requests of all viewers into
network calls, and the server sends each finished frame to its page.
"""
