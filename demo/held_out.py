"""Messages and words that the evaluation alone may use; training skips every one of them."""


def normalised(text: str) -> str:
    """Return a message as the split compares it: lower case, without final marks."""
    return text.lower().strip(" ?.!")


UNSEEN_ITEMS = {
    "en": (
        "zebra; telescope; samovar; wheelchair; unicycle; trampoline; ukulele; chandelier; lighthouse; pumpkin; "
        "compass; thermos; "
        "cactus; typewriter; barometer; harmonica; canoe; pressure cooker; globe; metronome; wigwam; binoculars; "
        "hourglass; ostrich"
    ).split("; "),
    "ru": (
        "зебра; телескоп; самовар; каноэ; укулеле; тыква; компас; термос; кактус; барометр; метроном; глобус; "
        "бинокль; страус; "
        "верстак; арфа; скороварка; гербарий; шезлонг; паяльник; фонарь; пишущая машинка; ходунки; люлька; сундук"
    ).split("; "),
}
OFF_TOPIC = {
    "en": (
        "What is the capital of France?|Write me a poem|2+2?|Who painted the Mona Lisa?|How many planets are there?|"
        "Tell me a joke|"
        "What is the tallest building in the world?|Please explain how vaccines work|Write a haiku about spring|What "
        "is 17 times 4?|"
        "Can you recommend a good restaurant?|How do I change a tyre?|What should I name my dog?|Who is the prime "
        "minister of Norway?|"
        "Translate 'good morning' into Polish|Why do cats purr?|What is the speed of light?|Write a Python function "
        "that sorts a list|"
        "Is there life on Mars?|How do I get to the station?|What are you wearing?|Give me the lottery numbers|Do "
        "you like jazz?|"
        "How can I sleep better at night?|What year did the Titanic sink?|Sing me a lullaby|I am lonely|Prove "
        "Pythagoras' theorem|"
        "What is your favourite film?|Order me a taxi, please|Plan a trip to Rome for three days|My head hurts, what "
        "should I do?|"
        "How tall is Mount Everest?|Write a birthday wish for my sister|What's the difference between a virus and a "
        "bacterium?"
    ).split("|"),
    "ru": (
        "Какая столица Франции?|Напиши мне стихотворение|Чему равен корень из семи?|Кто написал «Мону Лизу»?|Сколько "
        "планет в Солнечной "
        "системе?|"
        "Расскажи анекдот|Какое самое высокое здание в мире?|Объясни, как работают прививки|Сколько будет 17 на 4?|"
        "Ты любишь джаз?|"
        "Посоветуй хороший ресторан|Как поменять колесо?|Как назвать собаку?|Переведи «доброе утро» на польский|Мне "
        "одиноко|"
        "Почему кошки мурлычут?|Какая скорость света?|Напиши функцию сортировки|Есть ли жизнь на Марсе?|Как пройти к "
        "вокзалу?|"
        "Назови выигрышные номера лотереи|Как лучше спать ночью?|В каком году утонул Титаник?|Спой колыбельную|"
        "Закажи такси|"
        "Докажи теорему Пифагора|Какой твой любимый фильм?|Составь план поездки в Рим|У меня болит голова, что делать?|"
        "Какая высота Эвереста?|Напиши поздравление для сестры|Чем вирус отличается от бактерии?|Кто победит на "
        "выборах?"
    ).split("|"),
}
MESSAGES = frozenset(normalised(text) for texts in OFF_TOPIC.values() for text in texts)
