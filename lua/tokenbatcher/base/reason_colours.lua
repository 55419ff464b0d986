--- Why a batch went, as a colour: told apart by whoever sees colours otherwise, too (Okabe and Ito's).

return { full = "#0072b2", timeout = "#e69f00", idle = "#56b4e9", drain = "#999999", policy = "#009e73" }
